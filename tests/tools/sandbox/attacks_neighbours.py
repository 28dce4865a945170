"""Attacks on the call before: whatever of its code, cells, images and output a later call could inherit.

A call with canaries (canary.py) has been made in the same worker. ``hunt`` looks for one of them in bytes and breaches
where it is there: the program holds the prefix masked, and of the rest only hashes, so that it never finds itself.
``peek`` reads any address: the kernel copies it into a file, and says so where there is nothing.
"""

HELPERS = r"""
import gc, hashlib
PREFIX = bytes(b ^ 90 for b in bytes.fromhex(T['hunt']['prefix']))
WIDE = b'\xff'.join(PREFIX[i:i + 3] for i in range(0, 16, 3))  # as pixels with a fourth channel
def check(found, where):
    kind = T['hunt']['kinds'].get(hashlib.sha256(bytes(found)).hexdigest())
    if kind: breach('%s, in %s' % (kind, where))
def hunt(data, where):
    at = data.find(PREFIX)
    while at >= 0:
        check(data[at:at + 32], where)
        at = data.find(PREFIX, at + 1)
    at = data.find(WIDE)
    while at >= 0:
        check(bytes(b for i, b in enumerate(data[at:at + 43]) if i % 4 != 3)[:32], where)
        at = data.find(WIDE, at + 1)
def look(value, where):
    kind = type(value)
    if kind is str: hunt(value.encode('utf-8', 'surrogatepass'), where)
    elif kind in (bytes, bytearray): hunt(value, where)
    elif kind is memoryview: hunt(value.tobytes(), where)
    elif kind.__name__ == 'ndarray': hunt(value.tobytes(), where)
def walk(roots, where, limit=150000):
    seen, todo = set(), list(roots)
    while todo and len(seen) < limit:
        value = todo.pop()
        if id(value) not in seen:
            seen.add(id(value))
            look(value, where)
            todo += gc.get_referents(value)
libc.pwrite.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
libc.pwrite.restype = ctypes.c_ssize_t
libc.malloc.restype = libc.sbrk.restype = libc.realloc.restype = libc.pthread_self.restype = ctypes.c_void_p
libc.malloc.argtypes = (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)
dump = os.open('dump', os.O_RDWR | os.O_CREAT)
def peek(address, n):
    got = libc.pwrite(dump, address, n, 0)
    return os.pread(dump, got, 0) if got > 0 else b''
def sweep(first, last, where, stride=1 << 14):
    at, total = max(first & -4096, 4096), 0
    while at < last:
        n = min(1 << 20, last - at)
        data = peek(at, n)
        hunt(data, where)
        total += len(data)
        at += n - 4096 if len(data) == n > 4096 else (len(data) + 4095 & -4096) + stride
    print(where, total)
def address_of(function): return ctypes.cast(function, ctypes.c_void_p).value
"""

TEXT = r"""
## frames below the own one
f = sys._getframe()
while f:
    walk(list(f.f_locals.values()), 'locals of ' + f.f_code.co_name, 20000)
    f = f.f_back
## globals of the frames below
f = sys._getframe()
while f:
    for name, value in list(f.f_globals.items()): look(value, 'global ' + name)
    f = f.f_back
## frames of the other threads
for f in sys._current_frames().values():
    while f:
        walk(list(f.f_locals.values()), 'a thread, ' + f.f_code.co_name, 20000)
        f = f.f_back
## frames that only the collector knows
import types
for o in gc.get_objects():
    if type(o) in (types.FrameType, types.GeneratorType, types.CoroutineType): walk([o], 'a frame', 20000)
## all objects and what they hold
for o in gc.get_objects():
    look(o, 'an object')
    for r in gc.get_referents(o): look(r, 'what a %s holds' % type(o).__name__)
## frozen objects too
gc.unfreeze()
for o in gc.get_objects():
    for r in gc.get_referents(o): look(r, 'a frozen %s' % type(o).__name__)
## referrers of what every request holds
import numpy, PIL.Image
for o in (numpy.ndarray, PIL.Image.Image, bytearray, memoryview, dict, True, None):
    for r in gc.get_referrers(o)[:2000]: walk([r], 'a referrer', 300)
## dead objects that the collector finds
gc.set_debug(gc.DEBUG_SAVEALL)
gc.collect()
walk(gc.garbage, 'garbage')
## every module of the sandbox
walk([vars(m) for n, m in list(sys.modules.items()) if n.startswith(('arft_jax', '__main__'))], 'the sandbox', 300000)
## the main module of the worker
walk([vars(sys.modules['__main__'])], 'the main module')
## closures and defaults of the sandbox
import types
for o in gc.get_objects():
    if type(o) is types.FunctionType and (o.__module__ or '').startswith(('arft_jax', '__main__')):
        walk([o.__defaults__, o.__kwdefaults__, [c.cell_contents for c in o.__closure__ or ()]], o.__qualname__, 5000)
## constants of all code
import types
for o in gc.get_objects():
    if type(o) is types.FunctionType: walk([o.__code__], o.__code__.co_name, 300)
## byte arrays and views by their type
import mmap
for o in gc.get_objects():
    if type(o) in (tuple, list, dict):
        for r in gc.get_referents(o):
            if type(r) in (bytearray, bytes, memoryview, mmap.mmap): hunt(bytes(r), 'bytes')
## the last exceptions
for name in ('last_type', 'last_value', 'last_traceback', 'last_exc'): walk([getattr(sys, name, None)], name)
walk(list(sys.exc_info()), 'the exception being handled')
t = sys.exc_info()[2]
e = sys.exc_info()[1]
while e is not None: walk([e, e.__traceback__], 'a context'); e = e.__context__
## lines kept for tracebacks
import linecache, tokenize, traceback
walk([linecache.cache, vars(traceback)], 'linecache')
## caches of expressions, formats and parsers
import re, json, fnmatch
walk([vars(re), vars(struct), vars(fnmatch), vars(json), vars(json.decoder), vars(json.encoder)], 'caches')
## caches of functions
import functools
for o in gc.get_objects():
    if type(o).__name__ == '_lru_cache_wrapper': walk([o], 'a cache', 50000)
## warnings and their registries
import warnings
walk([warnings.filters, warnings.onceregistry], 'filters')
for m in list(sys.modules.values()): walk([getattr(m, '__warningregistry__', None)], 'a registry')
## import caches
import importlib, pkgutil
walk([sys.path_importer_cache, sys.path, sys.meta_path, sys.path_hooks], 'importers')
## threads, locks and locals of threads
import _thread, contextvars
walk([vars(threading), threading.local(), contextvars.copy_context()], 'threading', 50000)
## handlers of signals, exits and codecs
import atexit, codecs, signal as s
walk([s.getsignal(n) for n in range(1, 65)], 'a handler', 100000)
walk([vars(codecs), vars(atexit), sys.excepthook, sys.displayhook], 'codecs')
## standard streams and their buffers
for stream in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__):
    walk([stream], 'a stream', 5000)
    for name in ('buffer', 'raw'):
        stream = getattr(stream, name, None)
        if stream is not None: sweep(id(stream) - 65536, id(stream) + 65536, 'near a stream')
## environment and arguments
walk([dict(os.environ), sys.argv, sys.orig_argv, sys.flags], 'arguments')
## strings of the process's start, in memory
environ = ctypes.c_void_p.in_dll(libc, 'environ').value
for i in range(200):
    entry = peek(environ + 8 * i, 8)
    if len(entry) == 8 and struct.unpack('Q', entry)[0]: hunt(peek(struct.unpack('Q', entry)[0], 4096), 'environ')
sweep(environ - (1 << 16), environ + (1 << 16), 'auxiliary vector')
## the whole main stack
environ = ctypes.c_void_p.in_dll(libc, 'environ').value
sweep(environ - (9 << 20), environ + (1 << 20), 'the stack')
## below the stack's end: what deeper calls left
import json
x = []
for _ in range(300): x = [x]
json.dumps(x)
environ = ctypes.c_void_p.in_dll(libc, 'environ').value
sweep(environ - (2 << 20), environ, 'left below')
## the heap of the C library
top = libc.sbrk(0)
sweep(top - (192 << 20), top, 'the heap')
## around objects
anchors = sorted({id(o) >> 20 for o in gc.get_objects()})
for a in anchors: sweep(a << 20, (a + 1 << 20) + 4096, 'objects')
## around texts and bytes
texts = {id(r) >> 20 for o in gc.get_objects() for r in gc.get_referents(o) if type(r) in (str, bytes, bytearray)}
for a in sorted(texts): sweep(a << 20, (a + 1 << 20) + 4096, 'texts')
## mappings above the newest
m = mmap.mmap(-1, 4096)
here = ctypes.addressof(ctypes.c_char.from_buffer(m))
sweep(here - (64 << 20), here + (256 << 20), 'mappings', 1 << 13)
## mappings between the libraries
import numpy, cv2, PIL._imaging
for f in (libc.read, ctypes.pythonapi.Py_IncRef, ctypes.PyDLL(PIL._imaging.__file__).PyInit__imaging):
    sweep(address_of(f) - (24 << 20), address_of(f) + (24 << 20), 'libraries', 1 << 13)
## buffers of the C library's streams
for name in ('stdin', 'stdout', 'stderr'):
    at = ctypes.c_void_p.in_dll(libc, name).value
    sweep(at - 16384, at + 16384, name, 4096)
    for word in struct.unpack('32Q', peek(at, 256)): hunt(peek(word, 8192), 'a buffer of ' + name)
## storage of the thread
at = libc.pthread_self()
sweep(at - (1 << 20), at + (1 << 20), 'of the thread', 4096)
## storage of a new thread, which may be an old one's
def run():
    at = libc.pthread_self()
    sweep(at - (8 << 20), at + 65536, 'an old stack', 4096)
for _ in range(3):
    t = threading.Thread(target=run); t.start(); t.join()
## memory that malloc hands out again
for n in [*range(16, 4096, 16), *(1 << k for k in range(12, 23)), *(3 << k for k in range(10, 21))]:
    kept = [libc.malloc(n) for _ in range(8)]
    for p in kept: hunt(ctypes.string_at(p, n), 'malloc %d' % n)
    for p in kept[::2]: libc.free(p)
## chunks of malloc, and what follows them
for n in (24, 120, 1000, 5000, 100_000):
    p = libc.malloc(n)
    sweep(p - 65536, p + (1 << 20), 'behind a chunk', 4096)
## blocks of Python's own allocator
alloc = ctypes.pythonapi.PyObject_Malloc
alloc.restype, alloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
for n in range(16, 513, 16):
    for _ in range(400): hunt(ctypes.string_at(alloc(n), n), 'a block of %d' % n)
## uninitialised arrays of numpy
import numpy as np
for n in (*range(1, 1025), 4096, 15120, 1 << 16, 1 << 20, 1 << 22):
    kept = [np.empty(n, np.uint8) for _ in range(3)]
    for x in kept: hunt(x.tobytes(), 'numpy, %d' % n)
## uninitialised bytes of Python
make = ctypes.pythonapi.PyBytes_FromStringAndSize
make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_ssize_t)
for n in (*range(33, 600, 7), 1000, 3000, 5100, 15120, 15150, 30000, 1 << 18, 1 << 21): hunt(make(None, n), 'bytes')
## uninitialised images of Pillow
import PIL.Image
for size in ((84, 60), (32, 64), (9, 9), (600, 400), (84, 1), (2000, 1000)):
    for mode in ('RGB', 'RGBA', 'L', 'F', 'CMYK'):
        hunt(PIL.Image.new(mode, size, None).tobytes(), 'PIL ' + mode)
## blocks of Pillow's arena
import PIL.Image
PIL.Image.core.set_blocks_max(64)
for _ in range(20):
    image = PIL.Image.core.new('RGB', (1000, 1000))
    hunt(PIL.Image.Image()._new(image).tobytes('raw', 'RGBX'), 'an arena')
## an image cut out beyond its edge
import PIL.Image
x = PIL.Image.open('path_to_input_image.jpg')
hunt(x.crop((-200, -200, 300, 300)).tobytes(), 'crop')
hunt(x.transform((400, 400), PIL.Image.Transform.EXTENT, (-99, -99, 300, 300)).tobytes(), 'transform')
## uninitialised arrays of OpenCV
import cv2, numpy as np
for h, w in ((60, 84), (64, 32), (400, 600), (9, 9)):
    x = cv2.imdecode(cv2.imencode('.png', np.zeros((h, w, 3), np.uint8))[1], 1)
    hunt(x.tobytes(), 'decoded'); hunt(cv2.UMat(h, w, cv2.CV_8UC3).get().tobytes(), 'a matrix')
    moved = cv2.warpAffine(x, np.float32([[1, 0, 99], [0, 1, 99]]), (w, h), borderMode=cv2.BORDER_TRANSPARENT)
    hunt(moved.tobytes(), 'beyond the edge')
## a truncated picture: what the decoder had before
import io, PIL.Image, PIL.ImageFile
PIL.ImageFile.LOAD_TRUNCATED_IMAGES = True
for kind in ('PNG', 'JPEG', 'WEBP', 'TIFF', 'BMP', 'GIF', 'PPM'):
    b = io.BytesIO(); PIL.Image.effect_noise((300, 300), 90).convert('RGB').save(b, kind)
    for part in (3, 10, 50, 90):
        try: hunt(PIL.Image.open(io.BytesIO(b.getvalue()[:len(b.getvalue()) * part // 100])).tobytes(), kind)
        except Exception: pass
## memory that grows in place
for n in (1000, 10_000, 200_000):
    p = libc.malloc(n)
    libc.realloc.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    p = libc.realloc(p, 8 * n)
    hunt(ctypes.string_at(p, 8 * n), 'realloc')
## the program break moved on
libc.sbrk.argtypes = (ctypes.c_long,)
top = libc.sbrk(1 << 20)
sweep(top - (1 << 20), top + (1 << 20), 'the break', 4096)
## memory that malloc hands out to threads
def run():
    for n in (*range(16, 2048, 16), *(1 << k for k in range(11, 20))):
        for _ in range(8): hunt(ctypes.string_at(libc.malloc(n), n), 'a thread, malloc %d' % n)
for _ in range(3):
    t = threading.Thread(target=run); t.start(); t.join()
## old memory moved here
libc.mremap.restype = ctypes.c_void_p
m = mmap.mmap(-1, 4096)
here = ctypes.addressof(ctypes.c_char.from_buffer(m)) & -4096
for i in range(1, 4000):
    p = libc.mremap(ctypes.c_void_p(here + 4096 * i), ctypes.c_size_t(0), ctypes.c_size_t(4096), 1)
    if p and p != 2 ** 64 - 1: hunt(peek(p, 4096), 'moved memory')
## shared memory of the decoder
for o in gc.get_objects():
    if type(o) is mmap.mmap: hunt(bytes(o), 'a mapping')
for m in list(sys.modules.values()):
    for v in list(vars(m).values()) if hasattr(m, '__dict__') else ():
        if type(v) is mmap.mmap: hunt(bytes(v), 'a mapping')
## every descriptor, read and mapped
for fd in range(4097):
    try: kind = os.fstat(fd).st_mode
    except OSError: continue
    for offset in (0, 4096):
        try: hunt(os.pread(fd, 1 << 20, offset), 'descriptor %d' % fd)
        except OSError: pass
    try: hunt(mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:], 'mapped descriptor %d' % fd)
    except (OSError, ValueError): pass
## what waits in every pipe and socket
for fd in [fd for fd in range(4097) if fd > 2]:
    try: os.set_blocking(fd, False)
    except OSError: continue
    for _ in range(50):
        try: data = os.read(fd, 65536)
        except OSError: break
        hunt(data, 'descriptor %d' % fd)
        if not data: break
## every descriptor but the known ones
import stat
for fd in range(4097):
    try: mode = os.fstat(fd).st_mode
    except OSError: continue
    if fd > 5 and fd != dump: breach('descriptor %d, %o' % (fd, mode))
    if stat.S_ISDIR(mode) or stat.S_ISREG(mode) and fd != dump: breach('descriptor %d, %o' % (fd, mode))
## the folder, with all names
for d, names, files in os.walk('.', followlinks=True):
    for name in names + files:
        hunt(name.encode(), 'a name')
        if name not in ('dump', 'path_to_input_image.jpg'): breach(name)
hunt(open('path_to_input_image.jpg', 'rb').read(), 'the image')
## the room of earlier files in the folder
fd = os.open('hole', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 7 << 20)
os.pwrite(fd, b'x', 5000)
hunt(os.pread(fd, 7 << 20, 0), 'a hole')
try: os.posix_fallocate(fd, 0, 7 << 20)
except OSError: pass
hunt(os.pread(fd, 7 << 20, 0), 'room made ahead')
## state of the random generators | ok twice
import random, numpy as np, cv2
print(hashlib.sha256(repr((random.getstate(), np.random.get_state())).encode()).hexdigest())
print(cv2.randu(np.zeros((2, 2), np.uint8), 0, 255).tolist(), random.random(), hash('x'))
## state of the libraries | ok twice
import decimal, locale, numpy as np, PIL.Image, cv2, time, warnings, codecs
print(decimal.getcontext(), np.geterr(), np.get_printoptions(), cv2.getNumThreads(), locale.setlocale(0), time.tzname)
print(sorted(sys.modules) == sorted(set(sys.modules)), len(sys.modules), len(warnings.filters), sys.getrecursionlimit())
print(sorted(PIL.Image.ID), PIL.Image.core.get_stats(), PIL.Image.MAX_IMAGE_PIXELS, sys.getswitchinterval())
## counters of the interpreter | ok twice
print(gc.get_stats(), gc.get_count(), gc.get_freeze_count(), len(gc.get_objects()), sys.getallocatedblocks())
print(threading.Thread().name, len(sys._current_frames()), sys.getrefcount(None))
## layout of the memory | ok twice
import numpy as np
print([hex(id(x)) for x in (object(), [], {}, 'x' * 70, bytearray(5000), T)], hex(libc.sbrk(0)))
print([hex(libc.malloc(n)) for n in (24, 100, 1000, 10_000, 100_000, 1_000_000)], np.empty(9000).ctypes.data)
## size of the process at its start | ok twice
import resource
for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
    try: print(resource.getrusage(who).ru_maxrss >> 10, resource.getrusage(who).ru_nswap)
    except OSError as e: print(e.errno)
## exceptions of the start, and their memory
try: raise MemoryError
except MemoryError as e: walk([e], 'a reserve')
for kind in (MemoryError, RecursionError, KeyError, OSError):
    for _ in range(40): walk([kind()], 'a free exception', 200)
## names of attributes and interned texts
for o in gc.get_objects():
    if type(o) is dict:
        for k in list(o): look(k, 'a key')
    elif isinstance(o, type): [look(k, 'a name') for k in list(vars(o))]
"""
