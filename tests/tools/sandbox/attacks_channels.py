"""Attacks on what calls share: a bit that one leaves, or sets, and another reads, by anything but the clock.

A call has been made before in the same worker that leaves what it can (canary.py). What two calls do at the same time
is in side_by_side.py. At level L0 the metadata of files and the list of processes are the host's, which is documented.
"""

TEXT = r"""
## lock on a file of the library
import fcntl
fcntl.flock(open(os.__file__), fcntl.LOCK_EX | fcntl.LOCK_NB)
breach()
## shared lock on a file of the library
import fcntl, numpy
fcntl.flock(open(numpy.__file__), fcntl.LOCK_SH | fcntl.LOCK_NB)
breach()
## lock on the own folder
import fcntl
fcntl.flock(os.open('.', os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
breach()
## record lock on the null device
import fcntl
fcntl.lockf(open('/dev/null', 'r+b', 0), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(time.time()))
breach()
## lock of an open description
import fcntl
fcntl.fcntl(os.open('/dev/null', os.O_RDWR), 37, struct.pack('hhqqi4x', 1, 0, 7, 1, 0))
breach()
## question who holds a lock
import fcntl
breach(fcntl.fcntl(os.open('/dev/null', os.O_RDWR), fcntl.F_GETLK, struct.pack('hhqqi4x', 1, 0, 0, 0, 0)))
## lock by the C library
if libc.lockf(os.open('/dev/null', os.O_RDWR), 2, ctypes.c_long(1)) == 0: breach()
## lock on the standard input
import fcntl
for command in (5, 6, 36, 37):
    try: fcntl.fcntl(0, command, struct.pack('hhqqi4x', 0, 0, 0, 0, 0))
    except OSError: continue
    breach(command)
## lease on a file
import fcntl
fcntl.fcntl(os.open(T['readable'], os.O_RDONLY), 1024, 0)
breach()
## notice of changes in a folder
import fcntl
fcntl.fcntl(os.open(os.path.dirname(os.__file__), os.O_RDONLY), 1026, 1)
breach()
## hints on the writes of a library's file
import fcntl
fd = os.open(os.__file__, os.O_RDONLY)
for command, value in ((1035, bytes(8)), (1036, struct.pack('Q', 3)), (1037, bytes(8)), (1038, struct.pack('Q', 3))):
    try: fcntl.fcntl(fd, command, value)
    except OSError: continue
    breach(command)
## flags of the standard input from call to call | ok twice
import fcntl
for fd in range(6):
    try: print(fd, oct(fcntl.fcntl(fd, fcntl.F_GETFL)), fcntl.fcntl(fd, fcntl.F_GETFD), oct(os.fstat(fd).st_mode))
    except OSError as e: print(fd, e.errno)
## position of the standard input from call to call | ok twice
try: print(os.lseek(0, 0, 1)); os.lseek(0, 4242, 0)
except OSError as e: print(e.errno)
## mode mask, working folder and identity | ok twice
print(oct(os.umask(0)), os.listdir('.'), os.getuid(), os.getgid(), os.getgroups(), os.getpgrp() == os.getpid())
print(os.getsid(0) == os.getpid(), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0), os.uname())
## signals and timers | ok twice
import signal as s
print([s.getsignal(n) for n in range(1, 65) if n not in (32, 33)], s.pthread_sigmask(s.SIG_BLOCK, []), s.sigpending())
print(s.getitimer(s.ITIMER_REAL), s.getitimer(s.ITIMER_VIRTUAL), s.getitimer(s.ITIMER_PROF), s.alarm(0))
## limits | ok twice
import resource
print([resource.getrlimit(kind) for kind in range(16)], os.sched_getscheduler(0), os.sched_getparam(0))
## numbers of the process and its threads | ok twice @L1
numbers = []
for _ in range(3):
    t = threading.Thread(target=lambda: numbers.append(threading.get_native_id())); t.start(); t.join()
print(os.getpid(), numbers)
## numbers and times of the own files | ok twice @L1
made = os.open('made', os.O_RDWR | os.O_CREAT)
print([(os.stat(p).st_ino, os.stat(p).st_nlink) for p in ('.', 'path_to_input_image.jpg', 'made', '..', '/')])
## numbers of mounts
buffer = ctypes.create_string_buffer(256)
must(libc.statx(-100, b'.', 0, 0x4000, buffer))  # STATX_MNT_ID_UNIQUE: counts the mounts of the host, and so the calls
if struct.unpack_from('I', buffer)[0] & 0x4000: breach(struct.unpack_from('Q', buffer, 0x90)[0])
## numbers of mounts that are used again
buffer = ctypes.create_string_buffer(256)
must(libc.statx(-100, b'/', 0, 0x1000, buffer))
if struct.unpack_from('I', buffer)[0] & 0x1000: breach(struct.unpack_from('Q', buffer, 0x90)[0])
## free room of the file system
breach(os.statvfs('.'))
## free room by descriptor
breach(os.fstatvfs(0))
## free room of the shared memory folder
must(libc.statfs(b'/dev/shm', ctypes.create_string_buffer(256)))
breach()
## memory and processes of the host
must(libc.sysinfo(ctypes.create_string_buffer(256)))
breach()
## load of the host
breach(os.getloadavg())
## time of the last reading of a file | @L1
before = os.stat(T['unread']).st_atime_ns
open(T['unread']).read()
if os.stat(T['unread']).st_atime_ns != before: breach()
## time of the last listing of a folder | @L1
folder = os.path.dirname(T['unread'])
before = os.stat(folder).st_atime_ns
os.listdir(folder)
if os.stat(folder).st_atime_ns != before: breach()
## times of a device that is written | @L1
before = os.stat('/dev/null')[7:]
os.write(os.open('/dev/null', os.O_WRONLY), b'x')
os.read(os.open('/dev/zero', os.O_RDONLY), 1); os.read(os.open('/dev/urandom', os.O_RDONLY), 1)
if os.stat('/dev/null')[7:] != before: breach()
## page cache by a read that does not wait
fd = os.open(os.__file__, os.O_RDONLY)
try: os.preadv(fd, [bytearray(4096)], 0, os.RWF_NOWAIT)
except BlockingIOError: breach('not there')
breach('there')
## page cache by a plain vector read of the newer kind
part = ctypes.create_string_buffer(4096)
vector = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(part), 4096), 16)
sys_call(327, 286, os.open(os.__file__, os.O_RDONLY), vector, 1, 0, 0, 8)
breach()
## writes of the newer kind
part = ctypes.create_string_buffer(16)
vector = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(part), 16), 16)
sys_call(328, 287, os.open('a', os.O_RDWR | os.O_CREAT), vector, 1, 0, 0, 2)
breach()
## page cache by its statistics
fd = os.open(os.__file__, os.O_RDONLY)
span, found = ctypes.create_string_buffer(struct.pack('QQ', 0, 1 << 20), 16), ctypes.create_string_buffer(40)
sys_call(451, 451, fd, span, found, 0)
breach(struct.unpack('5Q', found.raw))
## page cache by blocks that were read
import resource, pydoc_data.topics
fd = os.open(pydoc_data.topics.__file__, os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
os.read(fd, 100_000)
if resource.getrusage(resource.RUSAGE_SELF).ru_inblock > before: breach('was not there')
## page cache by faults that waited
import resource, pydoc_data.topics
fd = os.open(pydoc_data.topics.__file__, os.O_RDONLY)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
before = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
sum(mmap.mmap(fd, 0, prot=mmap.PROT_READ)[::4096])
if resource.getrusage(resource.RUSAGE_SELF).ru_majflt > before: breach('was not there')
## page cache of a mapped file
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, os.open(os.__file__, os.O_RDONLY), ctypes.c_long(0))
sys_call(27, 232, p, 4096, ctypes.create_string_buffer(1))
breach()
## a file of the library ahead of time
sys_call(187, 213, os.open(os.__file__, os.O_RDONLY), 0, 1 << 20)
breach()
## shared futex on a library's page
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, ctypes.c_size_t(4096), 1, 1, os.open(os.__file__, os.O_RDONLY), ctypes.c_long(0))
sys_call(202, 98, p, 1, 100, None, None, 0)
breach()
## shared futexes of every kind
word = ctypes.create_string_buffer(64)
at = ctypes.addressof(word) + 63 & -64
for operation in (1, 3, 4, 5, 10):  # wake, requeue, compare and requeue, wake by operation, wake by bits
    try: sys_call(202, 98, at, operation, 0, None, at, -1)
    except OSError: continue
    breach(operation)
## wait on a shared futex
word, soon = ctypes.create_string_buffer(64), ctypes.create_string_buffer(struct.pack('qq', 0, 1000))
for operation in (0, 256):
    try: sys_call(202, 98, ctypes.addressof(word) + 63 & -64, operation, 0, soon, None, 0)
    except OSError as e:
        if e.errno == errno.ETIMEDOUT: breach(operation)
## futexes of the newer kind
for number in (449, 454, 455, 456): tried(reach, number, number, 0, 0, 0, 0, 0, 0)
## wake at a thread's end, on a shared page
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x21, -1, ctypes.c_long(0))  # shared, of nobody else
ctypes.memmove(p, b'\1\0\0\0', 4)
def leave():
    sys_call(218, 96, p)  # the kernel clears the word and wakes who waits on it
    sys_call(60, 93, 0)
threading.Thread(target=leave, daemon=True).start()
time.sleep(0.05)
soon = ctypes.create_string_buffer(struct.pack('qq', 0, 1000))
try: sys_call(202, 98, p, 0, 0, soon, None, 0)
except OSError as e:
    if e.errno == errno.ETIMEDOUT: breach('waited')
## robust list of another process
buffer = ctypes.create_string_buffer(16)
sys_call(274, 100, T['victim'], buffer, ctypes.byref(buffer, 8))
breach()
## processor time of another process
for pid in (T['trainer'], T['victim'], os.getppid(), 1):
    try: breach('%d: %s' % (pid, time.clock_gettime((~pid << 3) | 2)))
    except OSError: pass
## processor time of the neighbours' numbers
for pid in range(1, 400):
    if pid == os.getpid(): continue
    try: breach('%d: %s' % (pid, time.clock_gettime((~pid << 3) | 2)))
    except OSError: pass
## resolution of another process's clock
for pid in (T['trainer'], os.getppid()):
    if libc.clock_getres((~pid << 3) | 2, None) == 0: breach(pid)
## sleep by another process's clock
nap = ctypes.create_string_buffer(struct.pack('qq', 0, 1000))
for pid in (T['trainer'], T['victim'], os.getppid()):
    if libc.clock_nanosleep((~pid << 3) | 2, 1, nap, None) == 0: breach(pid)  # until a time that has passed
## groups and sessions of others
for pid in (T['trainer'], T['victim'], os.getppid(), 1):
    for ask in (os.getpgid, os.getsid):
        try: breach('%d: %d' % (pid, ask(pid)))
        except OSError: pass
## priorities of others
for kind, who in ((0, T['trainer']), (1, T['victim']), (0, 1), (0, os.getppid()), (2, 0), (2, os.getuid())):
    try: breach('%d: %d' % (who, os.getpriority(kind, who)))
    except OSError: pass
## schedulers and processors of others
for pid in (T['trainer'], T['victim'], os.getppid(), 1):
    for ask in (os.sched_getscheduler, os.sched_getparam, os.sched_getaffinity, os.sched_rr_get_interval):
        try: breach('%d: %s' % (pid, ask(pid)))
        except OSError: pass
## attributes of the scheduler
reach(315, 275, 0, ctypes.create_string_buffer(64), 64, 0)
## priorities of input and output
reach(252, 31, 2, 0)
## queued signals, a quota of the user's
import signal as s
s.pthread_sigmask(s.SIG_BLOCK, [40])
for _ in range(10): os.kill(os.getpid(), 40)
n = 0
while s.sigtimedwait([40], 0): n += 1
if n > 1: breach(n)
## watches of files, a quota of the user's
for number in ((294, 26), (300, 262)): tried(reach, *number, 0, 0)
## pages of pipes, a quota of the user's
breach(os.pipe())
## pipes of the newer kind
breach(os.pipe2(os.O_NONBLOCK))
## size of a pipe, a quota of the user's
import fcntl
fcntl.fcntl(1, 1031, 1 << 20)
breach()
## huge pages, a pool of the host's
libc.mmap.restype = ctypes.c_void_p
for more in (0, 21 << 26, 30 << 26):
    size = ctypes.c_size_t(1 << 30 if more >> 26 == 30 else 2 << 20)
    p = libc.mmap(None, size, 3, 0x40022 | more, -1, ctypes.c_long(0))
    if p and p != 2 ** 64 - 1 or ctypes.get_errno() == errno.ENOMEM: breach('asked for: %d' % more)
## keys of the user's and the session's
for number in ((248, 217), (249, 218), (250, 219)): tried(reach, *number, 0, 0, 0, 0)
## System V ipc of every kind
for number in ((29, 194), (30, 196), (31, 195), (64, 190), (66, 191), (68, 186), (69, 189), (71, 187)):
    tried(reach, *number, 0x61726674, 0, 0, 0)
## POSIX queues of every kind
for number in ((240, 180), (241, 181), (242, 182), (243, 183), (245, 185)): tried(reach, *number, b'arft', 0, 0, 0)
## names of shared memory
if libc.shm_open(b'/arft-left', os.O_RDWR | os.O_CREAT, 0o600) >= 0 or libc.shm_unlink(b'/arft-left') == 0: breach()
## descriptors of processes, timers and signals
for number in ((434, 434), (438, 438), (283, 85), (286, 86), (282, 74), (289, 74), (323, 282), (319, 279)):
    tried(reach, *number, 1, 0, 0, 0)
## name and mode of the process
for option in (15, 16, 3, 4, 23, 36, 38, 0x59616D61): tried(reach, 157, 167, option, 0, 0, 0, 0)
## score for the lack of memory
open('/proc/self/oom_score_adj', 'w').write('-1000')
breach()
## own entry in the list of processes
open('/proc/self/comm', 'w').write('x')
breach()
## memory that the kernel merges
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, ctypes.c_size_t(1 << 16), 3, 0x22, -1, ctypes.c_long(0))
must(libc.madvise(ctypes.c_void_p(p), ctypes.c_size_t(1 << 16), 12))
breach()
## merged memory for the whole process
reach(157, 167, 67, 1, 0, 0, 0)
## advices that nobody needs
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, ctypes.c_size_t(1 << 16), 1, 1, os.open(os.__file__, os.O_RDONLY), ctypes.c_long(0))
done = [n for n in (12, 13, 21, 25, 100, 101) if libc.madvise(ctypes.c_void_p(p), ctypes.c_size_t(4096), n) == 0]
if done: breach(done)
## a page cast out of the cache by its mapping
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, ctypes.c_size_t(1 << 16), 1, 1, os.open(os.__file__, os.O_RDONLY), ctypes.c_long(0))
must(libc.madvise(ctypes.c_void_p(p), ctypes.c_size_t(1 << 16), 21))  # MADV_PAGEOUT
breach()
"""
