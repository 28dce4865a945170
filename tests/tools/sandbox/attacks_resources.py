"""Attacks that use up: processes, threads, memory, time, descriptors, disk, inodes."""

TEXT = r"""
## fork
if os.fork() == 0: os._exit(0)
breach()
## fork through the C library
if must(libc.fork()) == 0: os._exit(0)
breach()
## vfork system call
if sys_call(58, 220, 17, 0, 0, 0, 0) == 0: os._exit(0)
breach()
## clone3
args = ctypes.create_string_buffer(struct.pack('QQQQQQQQ', 0, 0, 0, 0, 17, 0, 0, 0), 64)
if sys_call(435, 435, args, 64) == 0: os._exit(0)
breach()
## clone into new namespaces
if sys_call(56, 220, 0x10000000 | 17, 0, 0, 0, 0) == 0: os._exit(0)
breach()
## daemon that outlives the call
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(60)
    os._exit(0)
breach()
## start a program
os.execv('/bin/sh', ['sh', '-c', 'echo BREACH'])
## subprocess
import subprocess
print('BREACH', subprocess.run(['echo', 'x'], capture_output=True).stdout)
## posix_spawn
os.posix_spawn('/bin/true', ['true'], {})
breach()
## execveat from memory
fd = os.open('a', os.O_RDWR | os.O_CREAT, 0o700)
os.write(fd, b'#!/bin/sh\necho BREACH\n')
os.close(fd)  # a file open for writing is not run
fd = os.open('a', os.O_RDONLY)
os.set_inheritable(fd, True)
sys_call(322, 281, fd, b'', None, None, 0x1000)
## many threads
threading.stack_size(32768)
def rest(): time.sleep(60)
try:
    while True: threading.Thread(target=rest, daemon=True).start()
except (RuntimeError, MemoryError): pass
print('no more')
## heap | limit
x = []
while True: x.append(bytearray(1 << 22))
## heap at once | limit
x = bytearray(1 << 33)
breach()
## numpy pages touched | limit
import numpy as np
x = [np.ones((1 << 20,)) for _ in range(1000)]
breach()
## memory through the C library
libc.malloc.restype = ctypes.c_void_p
n = 0
for _ in range(2000):
    q = libc.malloc(ctypes.c_size_t(1 << 20))
    if not q: break
    ctypes.memset(q, 1, 1 << 20); n += 1
    if n > T['memory_mb'] + 64: breach(n)
## shared mapping
maps = []
for _ in range(40):
    m = mmap.mmap(-1, 64 << 20); maps.append(m)
    for i in range(0, 64 << 20, 4096): m[i] = 1
breach()
## memfd
fd = must(libc.memfd_create(b'x', 0))
os.ftruncate(fd, 1 << 33)
breach()
## System V shared memory
sys_call(29, 194, 0, 1 << 30, 0o1600)
breach()
## mlock
if libc.mlockall(3) == 0: breach()
## stack recursion
sys.setrecursionlimit(1 << 30)
def f(): f()
f()
## C stack overflow by nested data
import json
json.loads('[' * 10_000_000)
## deep pickle
import pickle
x = []
sys.setrecursionlimit(1 << 30)
for _ in range(10_000_000): x = [x]
pickle.dumps(x)
## endless loop | limit
while True: pass
## endless loop that ignores signals | limit
for n in range(1, 65):
    try: signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError): pass
while True: pass
## endless sleep | limit
time.sleep(99)
## thread that sleeps on
threading.Thread(target=time.sleep, args=(99,)).start()
## regular expression that holds the lock | limit
import re
re.match(r'(a+)+$', 'a' * 60 + 'b')
## big integers | limit
x = 9 ** 9 ** 9
## loop that swallows exceptions | limit
while True:
    try:
        while True: pass
    except BaseException: pass
## endless exit handler | limit
class Last:
    def __del__(self):
        while True: pass
x = Last()
del x
## own alarm is no way out | limit
signal.signal(signal.SIGALRM, lambda *_: None)
signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
while True: pass
## processor limit raised | limit
import resource
try: resource.setrlimit(resource.RLIMIT_CPU, (-1, -1))
except (OSError, ValueError): pass
while True: pass
## endless print | limit
while True: print('x' * 1000)
## endless write to the descriptor | limit
while True: os.write(1, b'x' * 65536)
## endless standard error | limit
while True: os.write(2, b'x' * 65536)
## endless note | limit
while True: os.write(3, b'x' * 65536)
## endless second standard error | limit
while True: os.write(4, b'x' * 65536)
## one huge line | limit
sys.stdout.write('x' * (100 << 20))
## descriptors
fds = [os.open('a', os.O_RDWR | os.O_CREAT)]
for _ in range(1000): fds.append(os.dup(fds[0]))
breach(len(fds))
## pipes
fds = [os.pipe() for _ in range(500)]
breach(len(fds))
## disk: one file | limit
f = open('a', 'wb')
while True: f.write(bytes(1 << 20))
## disk: many files | limit
for i in range(100_000):
    with open('f%d' % i, 'wb') as f: f.write(bytes(7 << 20))
    if i * (7 << 20) > T['scratch_bytes'] * 3: breach(i)
## disk: deleted files that stay open | error, limit
fds = []
while True:
    fd = os.open('a', os.O_RDWR | os.O_CREAT); os.unlink('a'); fds.append(fd)
    for _ in range(7): os.write(fd, bytes(1 << 20))
    if len(fds) * (7 << 20) > T['scratch_bytes'] * 2.5: breach(len(fds))
## disk: deleted files of which one page stays mapped | error, limit
libc.mmap.restype = ctypes.c_void_p
n = 0
while True:
    fd = os.open('a', os.O_RDWR | os.O_CREAT)
    for _ in range(7): os.write(fd, bytes(1 << 20))
    libc.mmap(None, ctypes.c_size_t(4096), 1, 1, fd, ctypes.c_long(0)); os.close(fd); os.unlink('a'); n += 1
    if n * (7 << 20) > T['scratch_bytes'] * 3: breach(n)
    time.sleep(0.01)
## disk: deleted files in a thread's own descriptors | error
stack = ctypes.create_string_buffer(1 << 16)
top = ctypes.c_void_p(ctypes.addressof(stack) + 65520)
must(libc.clone(libc.pause, top, 0x10000 | 0x800 | 0x100, None))  # CLONE_THREAD, _SIGHAND, _VM and not _FILES
breach()
## disk: below a path too long to open | limit
for _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)
for i in range(200):
    with open('f%d' % i, 'wb') as f: f.write(bytes(7 << 20))
    if i * (7 << 20) > T['scratch_bytes'] * 3: breach(i)
## disk: in a folder that cannot be listed | limit
os.mkdir('d', 0o300)
for i in range(200):
    with open('d/f%d' % i, 'wb') as f: f.write(bytes(7 << 20))
    if i * (7 << 20) > T['scratch_bytes'] * 3: breach(i)
time.sleep(0.3)
## disk: one sparse file
with open('a', 'wb') as f: f.truncate(1 << 40)
breach()
## disk: fallocate
fd = os.open('a', os.O_RDWR | os.O_CREAT)
os.posix_fallocate(fd, 0, 1 << 40)
breach()
## disk: past the end
with open('a', 'wb') as f: f.seek(1 << 40); f.write(b'x')
breach()
## inodes | limit
for i in range(1_000_000): os.close(os.open('f%d' % i, os.O_CREAT))
## folders | limit
for i in range(1_000_000): os.mkdir('f%d' % i)
## a chain of folders
for i in range(100_000): os.mkdir('d'); os.chdir('d')
## links to one file
open('a', 'w').close()
for i in range(1_000_000): os.link('a', 'f%d' % i)
## limits raised
import resource
for kind in range(16):
    try: resource.setrlimit(kind, (-1, -1))
    except (OSError, ValueError): continue
bytearray(1 << 33)
breach()
## limits of the parent raised
import resource
resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (8, 8))
breach()
## priority raised
os.setpriority(os.PRIO_PROCESS, 0, -20)
breach()
## real-time scheduling
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
breach()
"""
