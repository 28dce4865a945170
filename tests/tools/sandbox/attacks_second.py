"""A second look, by someone who has read the code: missing bounds, lists that were too long, the protocol."""

HELPERS = r"""
PROMISED = ('numpy', 'pil', 'pillow', 'cv2', 'opencv_python', 'opencv_python_headless', 'opencv_contrib_python')
def others(folder):  # what is seen in a folder of packages beside the promised ones
    names = tried(os.listdir, folder) or ()
    return [name for name in names if name.split('-')[0].split('.')[0].lower() not in PROMISED]
"""

TEXT = r"""
## threads by clone with tiny stacks | error, limit
libc.mmap.restype = ctypes.c_void_p
size, n = 4096, 8000
area = libc.mmap(None, ctypes.c_size_t(size * n), 3, 0x22, -1, ctypes.c_long(0))
for i in range(1, n):
    must(libc.clone(libc.sleep, ctypes.c_void_p(area + i * size - 64), 0x10F00, ctypes.c_void_p(60)))
time.sleep(0.3)
breach(n)
## a few hundred threads by clone, that rest | error, limit
libc.mmap.restype = ctypes.c_void_p
size, n = 4096, 300
area = libc.mmap(None, ctypes.c_size_t(size * n), 3, 0x22, -1, ctypes.c_long(0))
for i in range(1, n):
    must(libc.clone(libc.sleep, ctypes.c_void_p(area + i * size - 64), 0x10F00, ctypes.c_void_p(60)))
time.sleep(0.3)
breach(n)
## threads by clone that end at once, as many as can be
libc.mmap.restype = ctypes.c_void_p
area = libc.mmap(None, ctypes.c_size_t(1 << 22), 3, 0x22, -1, ctypes.c_long(0))
end, n = time.monotonic() + 0.5, 0
while time.monotonic() < end:
    n += libc.clone(libc.getpid, ctypes.c_void_p(area + n % 1000 * 4096 + 4032), 0x10F00, None) > 0
print(n > 0)
## threads by clone that end at once, without end | limit
libc.mmap.restype = ctypes.c_void_p
area, n = libc.mmap(None, ctypes.c_size_t(1 << 22), 3, 0x22, -1, ctypes.c_long(0)), 0
while True:
    n += 1
    libc.clone(libc.getpid, ctypes.c_void_p(area + n % 1000 * 4096 + 4032), 0x10F00, None)
## disk: deleted files behind a crowd of threads that end | error, limit
libc.mmap.restype = ctypes.c_void_p
area = libc.mmap(None, ctypes.c_size_t(1 << 22), 3, 0x22, -1, ctypes.c_long(0))
def crowd():
    n = 0
    while True:
        n += 1
        libc.clone(libc.getpid, ctypes.c_void_p(area + n % 1000 * 4096 + 4032), 0x10F00, None)
threading.Thread(target=crowd, daemon=True).start()
time.sleep(0.05)
for i in range(40):
    fd = os.open('a', os.O_RDWR | os.O_CREAT); os.unlink('a')
    for _ in range(7): os.write(fd, bytes(1 << 20))
    if i * (7 << 20) > T['scratch_bytes'] * 3: breach(i)
## seventy threads that rest | error, limit
threading.stack_size(32768)
for _ in range(70): threading.Thread(target=time.sleep, args=(0.4,), daemon=True).start()
time.sleep(0.3)
breach()
## threads that come and go | error, limit
threading.stack_size(32768)
end = time.monotonic() + 0.7
while time.monotonic() < end:
    try: found = [threading.Thread(target=time.sleep, args=(0.02,), daemon=True) for _ in range(100)]
    except RuntimeError: continue
    for t in found: tried(t.start)
breach()
## threads as a program wants them | ok
found = []
for i in range(32):
    t = threading.Thread(target=found.append, args=(i,)); t.start()
time.sleep(0.1)
print(len(found))
## descriptors of its own by close_range | error, limit
def hide():
    must(libc.close_range(1000, 1001, 2))  # CLOSE_RANGE_UNSHARE: a table of its own, beside the one that is watched
    for i in range(12):
        fd = os.open('a%d' % i, os.O_RDWR | os.O_CREAT); os.unlink('a%d' % i)
        for _ in range(7): os.write(fd, bytes(1 << 20))
    breach('deleted files, %d MB' % (12 * 7))
failed = []
def run():
    try: hide()
    except OSError as e: failed.append(e)
t = threading.Thread(target=run); t.start(); t.join()
raise failed[0]
## close_range with any flag
for flags in (2, 4, 6, 8, 1 << 31): tried(lambda: (must(libc.close_range(1000, 1001, flags)), breach(flags)))
## close_range that leaves the note alone | error
must(libc.close_range(6, 2 ** 32 - 1, 0))
raise ValueError('the descriptors are closed')
## clone with descriptors of its own
stack = ctypes.create_string_buffer(1 << 16)
top = ctypes.c_void_p(ctypes.addressof(stack) + 65520)
for flags in (0x10B00, 0x50900):  # CLONE_THREAD, _SIGHAND, _VM, and more, and not _FILES
    if libc.clone(libc.sleep, top, flags, ctypes.c_void_p(60)) > 0: breach(hex(flags))
## clone as a sibling
for flags in (0x8000 | 17, 0x8000, 0x8000 | 0x100 | 0x4000 | 17):
    try: pid = sys_call(56, 220, flags, 0, 0, 0, 0)
    except OSError: continue
    if pid == 0: os._exit(0)
    breach('a sibling')
## clone that lends the memory
for flags in (0x4000 | 0x100 | 17, 0x100 | 17, 0x200 | 17, 0x400 | 17, 0x00200000 | 17):
    try: pid = sys_call(56, 220, flags, 0, 0, 0, 0)
    except OSError: continue
    if pid == 0: os._exit(0)
    breach('a process')
## clone with a word to be cleared
word, stack = ctypes.create_string_buffer(64), ctypes.create_string_buffer(1 << 16)
for flags in (0x00200000 | 17, 0x01000000 | 17, 0x00100000 | 17, 0x1000 | 17, 0x2000 | 17):
    try: pid = sys_call(56, 220, flags, 0, ctypes.addressof(word), ctypes.addressof(word), 0)
    except OSError: continue
    if pid == 0: os._exit(0)
    breach('a process')
## a thread that is traced, vanished or in a group of its own
stack = ctypes.create_string_buffer(1 << 16)
top = ctypes.c_void_p(ctypes.addressof(stack) + 65520)
for more in (0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80):
    if libc.clone(libc.sleep, top, 0x10F00 | more, ctypes.c_void_p(60)) >= 0: breach(hex(more))
## nine sparse outputs | error, limit
import PIL.Image
for i in range(9):
    name = 'output_%d.png' % i if i else 'path_to_output_image.jpg'
    with open(name, 'wb') as f: f.truncate(T['file_bytes'])
## mergeable memory
m = mmap.mmap(-1, 1 << 16)
m.madvise(12)
breach()
## packages that were not promised
for folder in T['packages']:
    if others(folder): breach('%s: %s' % (folder, others(folder)[:3]))
## a file of another package
for folder in T['packages']:
    for name in ('jax/version.py', 'flax/version.py', 'pip/__init__.py', 'setuptools/__init__.py', 'pytest/__init__.py',
                 '_pytest/__init__.py', 'ml_collections/__init__.py', 'scipy/__init__.py', 'wheel/__init__.py'):
        try: breach(open(os.path.join(folder, name)).read(20))
        except OSError: pass
## another package imported
import importlib
for name in ('jax', 'flax', 'pip', 'setuptools', 'pkg_resources', 'scipy', '_pytest', 'jaxlib', 'absl', 'orbax'):
    try: m = importlib.import_module(name)
    except Exception: continue
    if getattr(m, '__file__', None): breach(m.__file__)
## data of installed packages
import importlib.metadata
names = [d.metadata['Name'] for d in importlib.metadata.distributions()]
if names: breach(names[:5])
## files of paths and of editable installs
for folder in T['packages']:
    for name in (tried(os.listdir, folder) or []) + ['distutils-precedence.pth', 'easy-install.pth', '_virtualenv.py']:
        if name.endswith(('.pth', '.egg-link')) or name.startswith('__editable__'):
            try: breach(open(os.path.join(folder, name)).read(50))
            except OSError: pass
## settings of the venv and of the interpreter
for path in (sys.prefix + '/pyvenv.cfg', sys.base_prefix + '/pyvenv.cfg', '/etc/pip.conf', '/etc/ld.so.cache'):
    try: breach(open(path).read(50))
    except OSError: pass
## programs of the interpreter and of the venv
for folder in (sys.prefix + '/bin', sys.base_prefix + '/bin', '/usr/bin', '/usr/lib', '/usr/local/lib', '/opt'):
    for name in tried(os.listdir, folder) or (): breach(os.path.join(folder, name))
## files of the checkout
for name in ('README.md', 'pyproject.toml', 'setup.py', '.git', '.git/HEAD', 'arft_jax/config.py', 'tests', 'configs',
             'arft_jax/tools/sandbox/seccomp.py', 'arft_jax/__init__.py'):
    path = os.path.join(T['checkout'], name)
    for ask in (open, os.listdir):
        try: ask(path)
        except OSError: continue
        breach(name)
## source of the sandbox by the import system
import inspect, importlib.resources, linecache
for m in [m for n, m in list(sys.modules.items()) if n.startswith('arft_jax')]:
    try: breach(inspect.getsource(m)[:50])
    except (OSError, TypeError): pass
    if linecache.getlines(m.__file__): breach(m.__file__)
## what the search path leads to
for path in sys.path:
    if path.rstrip('/').endswith('-packages') and others(path): breach(path)
## packages through a folder descriptor
for folder in T['packages']:
    for flags in (os.O_RDONLY | os.O_DIRECTORY, os.O_PATH | os.O_DIRECTORY):
        try: fd = os.open(folder, flags)
        except OSError: continue
        if others(fd): breach(others(fd)[:3])
## packages by dots out of a promised one
import numpy
above = os.path.dirname(numpy.__file__)
for path in (above + '/..', above + '/core/../..', os.path.dirname(os.__file__) + '/site-packages', above + '/../pip'):
    if others(path): breach(others(path)[:3])
## ready and replayed once more | ok
os.write(3, b'\x01\x02\x01\x02')
print('noted')
## a second note that looks like the first | error
os.write(3, b'\x02' + b'SystemExit: 0')
os._exit(3)
## note flooded behind a good end
try: os.set_blocking(3, False)
except OSError: pass
for _ in range(100): tried(os.write, 3, b'\x01' * 4096)
print('full')
## the sandbox's own descriptors closed
for fd in (3, 4, 5): tried(os.close, fd)
print('closed')
## the sandbox's own descriptors replaced
fd = os.open('a', os.O_RDWR | os.O_CREAT)
for number in (0, 1, 2, 3, 4, 5): os.dup2(fd, number)
os.write(3, b'\x01'); os.write(1, b'BRE' + b'ACH')
## the sandbox's own descriptors crossed
os.dup2(1, 3); os.dup2(4, 1)
print('to the other stream')
## the request read once more
data = b''
for fd in (5, 3, 4, 6, 7, 8):
    try: os.set_blocking(fd, False); data += os.read(fd, 1 << 20)
    except OSError: pass
if data: breach(data[:50])
## a request of its own
import json
body = json.dumps({'source': 'print("x")', 'cells': [], 'images': None, 'seed': 1, 'is_session': False}).encode()
for fd in range(3, 64):
    for text in (struct.pack('<II', len(body), 0) + body, body):
        try: n = os.write(fd, text)
        except OSError: continue
        if fd > 4: breach('%d took %d bytes' % (fd, n))
## a false reply on every descriptor but the pipes | error
import json
body = json.dumps({'verdict': 'exit', 'status': 0, 'printed': 'x', 'was_set_up': True, 'was_replayed': True}).encode()
for fd in range(5, 64):
    for text in (struct.pack('<II', len(body), 0) + body, b'\x01', bytes(65536)): tried(os.write, fd, text)
os._exit(1)
## descriptors sent along
for number in ((46, 211), (47, 212), (44, 206), (45, 207), (307, 269), (299, 243)):
    for fd in range(6): tried(reach, *number, fd, 0, 0, 0, 0, 0)
## options of an inherited socket
for number in ((54, 208), (55, 209), (51, 204), (52, 205), (48, 210)):
    for fd in range(6): tried(reach, *number, fd, 1, 17, 0, 0, 0)
## signals to all that is near
near = {os.getppid(), os.getppid() + 1, os.getpid() - 1, os.getpid() + 1, 1, 2, 3, *range(2, 300)} - {os.getpid()}
for pid in near:
    for number in (0, signal.SIGSTOP, signal.SIGKILL, signal.SIGHUP):
        try: os.kill(pid, number)
        except OSError: continue
        breach('%d to %d' % (number, pid))
## signals to groups that are near
for pid in (os.getppid(), os.getpid() - 1, 1, 2, 3):
    for ask in (os.killpg, lambda p, n: os.kill(-p, n)):
        try: ask(pid, signal.SIGSTOP)
        except OSError: continue
        breach(pid)
## signals by threads that are near
for pid in {os.getppid(), os.getppid() + 1, os.getpid() - 1, os.getpid() + 1, *range(2, 300)} - {os.getpid()}:
    tried(lambda: (sys_call(234, 131, pid, pid, 19), breach(pid)))
    tried(lambda: (sys_call(297, 240, pid, pid, 19, ctypes.create_string_buffer(128)), breach(pid)))
## numbers of processes used up
threading.stack_size(32768)
end = time.monotonic() + 0.6
n = 0
while time.monotonic() < end:
    t = threading.Thread(target=int); t.start(); t.join(); n += 1
print(n > 0)
## a stop of a thread | limit
libc.syscall(ctypes.c_long(234 if X86 else 131), os.getpid(), threading.get_native_id(), signal.SIGSTOP)
time.sleep(0.05)
while True: pass
## a stop by the terminal's signals | limit
for number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGSTOP): os.kill(os.getpid(), number)
time.sleep(9)
## exit with the highest status | error
os._exit(255)
## exit with the status of the memory limit and a note | error
os.write(3, b'MemoryError: mine')
os._exit(77)
## an end in the midst of an image | error
import PIL.Image
PIL.Image.new('RGB', (90, 90)).save('path_to_output_image.jpg', 'PNG')
with open('path_to_output_image.jpg', 'r+b') as f: f.truncate(60)
## an end by a signal that none has named | error
signal.signal(signal.SIGRTMIN + 3, signal.SIG_DFL)
os.kill(os.getpid(), signal.SIGRTMIN + 3)
time.sleep(1)
## a timer that repeats | error, limit
signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
while True: pass
## a timer that repeats with a handler | limit error
signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.01))
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while True: time.sleep(0.001)
## a print that races the end
def flood():
    while True: tried(os.write, 1, b'x' * 60000)
for _ in range(4): threading.Thread(target=flood, daemon=True).start()
time.sleep(0.002)
os._exit(0)
## both streams race the end
def flood(fd):
    while True: tried(os.write, fd, b'\xe2\x80' * 30000)
for fd in (1, 2, 3, 4): threading.Thread(target=flood, args=(fd,), daemon=True).start()
time.sleep(0.002)
os._exit(1)
## outputs that grow while the call ends
def grow():
    with open('path_to_output_image.jpg', 'ab') as f:
        while True: tried(f.write, b'x' * 65536)
for _ in range(4): threading.Thread(target=grow, daemon=True).start()
time.sleep(0.01)
os._exit(0)
## outputs renamed among themselves while the call ends
import PIL.Image
PIL.Image.new('RGB', (9, 9)).save('a', 'PNG'); os.mkdir('d')
def swap():
    while True:
        tried(os.rename, 'a', 'path_to_output_image.jpg')
        tried(os.rename, 'path_to_output_image.jpg', 'd/x')
        tried(os.rename, 'd/x', 'a')
for _ in range(3): threading.Thread(target=swap, daemon=True).start()
time.sleep(0.01)
os._exit(0)
## an output below a folder of its name | error
os.makedirs('path_to_output_image.jpg/path_to_output_image.jpg')
open('path_to_output_image.jpg/path_to_output_image.jpg/x', 'w').write('x')
## outputs with odd names | ok
for name in ('output_1.png ', 'output_\n.png', 'output_..png', 'OUTPUT_1.png', '\u202e1.png', '-rf'):
    with open(name, 'w') as f: f.write('x')
print('odd')
## entries up to the bound | ok
for i in range(240): open('x%d' % i, 'w').close()
print('many')
## folders too deep for a path | error, limit
for i in range(300): os.mkdir('d' * 255); os.chdir('d' * 255)
## an image whose header changes its mind | error, limit
import io, PIL.Image
b = io.BytesIO(); PIL.Image.new('RGB', (90, 90)).save(b, 'JPEG')
data = b.getvalue(); at = data.index(b'\xff\xc0')
other = bytearray(data[at:at + 19]); other[5:9] = b'\xff\xff\xff\xff'
open('path_to_output_image.jpg', 'wb').write(data[:at] + bytes(other) + data[at:])
## an image of many chunks
import zlib
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
parts = chunk(b'tEXt', b'a\0b') * 50_000
open('path_to_output_image.jpg', 'wb').write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 8, 8, 8, 0,
    0, 0, 0)) + parts + chunk(b'IDAT', zlib.compress(bytes(72))) + chunk(b'IEND', b'')[:5])
## information on file systems and memory, call by call
room, name = ctypes.create_string_buffer(512), ctypes.create_string_buffer(b'.')
for number, first in (((137, 43), name), ((138, 44), 0), ((99, 179), room)):
    tried(lambda: (sys_call(*number, first, room), breach(number)))
## pipes, call by call
room = ctypes.create_string_buffer(64)
if X86: tried(lambda: (sys_call(22, 59, room, 0), breach('pipe')))
tried(lambda: (sys_call(293, 59, room, 0), breach('pipe2')))
## capabilities of another process
header = ctypes.create_string_buffer(struct.pack('Ii', 0x20080522, os.getppid()))
sys_call(125, 90, header, ctypes.create_string_buffer(24))
breach()
## segments and ports of the processor
if X86:
    for option in (0x1001, 0x1002, 0x1011, 0x1012, 0x1022, 0x1023, 0x2001, 0x4001, 0x5001):
        tried(reach, 158, 0, option, 0, 0)
## execution domain, asked for and set
for value in (0xffffffff, 0x0040000, 0x0400000, 0x08000008): tried(reach, 135, 92, value)
## protection keys and shadow stacks
for number in ((329, 288), (330, 289), (331, 290), (453, 453)): tried(reach, *number, 0, 4096, 4, 0)
## calls that map in other ways
for number in ((216, 234), (237, 235), (238, 237), (239, 236), (256, 238), (279, 239), (440, 440), (450, 450)):
    tried(reach, *number, 0, 0, 0, 0, 0, 0)
## files by newer and older calls
for number in (428, 432, 442, 457, 458, 463, 464, 465, 466, 467):
    tried(reach, number, number, -100, b'.', 0, 0, 0, 0)
## data moved between descriptors
for number in ((275, 76), (276, 77), (278, 75), (277, 84), (285, 47)): tried(reach, *number, 0, 0, 1, 0, 0, 0)
## accounting and quotas
for number in ((163, 89), (179, 60), (443, 443), (212, 18), (167, 224)): tried(reach, *number, 0, 0, 0, 0)
"""
