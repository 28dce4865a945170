"""Attacks on processes, sockets and the kernel's less known calls."""

TEXT = r"""
## tcp to loopback
s = socket.socket(); s.settimeout(1)
s.connect(('127.0.0.1', T['port']))
breach()
## tcp listen
s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen()
breach()
## udp to loopback
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'x', ('127.0.0.1', T['port']))
breach()
## name look-up
breach(socket.getaddrinfo('localhost', 80))
## metadata address
s = socket.socket(); s.setblocking(False)
if s.connect_ex(('169.254.169.254', 80)) != errno.EPERM: breach()  # there or not: somebody looked
## http
import urllib.request
breach(urllib.request.urlopen('http://127.0.0.1:%d/' % T['port'], timeout=1).read())
## IPv6
reach_socket(socket.AF_INET6)
## unix socket by path
s = socket.socket(socket.AF_UNIX)
s.connect(T['unix'])
breach()
## unix socket by abstract name
s = socket.socket(socket.AF_UNIX)
s.connect('\0' + T['abstract'])
breach()
## raw socket
reach_socket(socket.AF_INET, socket.SOCK_RAW, 1)
## packet socket
reach_socket(17, socket.SOCK_RAW, 768)
## netlink
reach_socket(16, socket.SOCK_RAW, 0)
## vsock
reach_socket(40, socket.SOCK_STREAM)
## algorithm socket
reach_socket(38, 5, 0)
## bluetooth socket
reach_socket(31, socket.SOCK_RAW, 1)
## socket pair
socket.socketpair()
breach()
## sockets by every inherited descriptor
for fd in range(1024):
    try:
        s = socket.socket(fileno=os.dup(fd))
        s.send(b'x')
    except OSError: continue
    breach(fd)
## io_uring
sys_call(425, 425, 8, ctypes.create_string_buffer(256))
breach()
## old asynchronous calls
sys_call(206, 0, 8, ctypes.create_string_buffer(8))
breach()
## kill the parent
os.kill(os.getppid(), signal.SIGKILL)
breach()
## kill the trainer
os.kill(T['trainer'], signal.SIGTERM)
breach()
## kill a process of the same user
os.kill(T['victim'], signal.SIGKILL)
breach()
## kill everybody
os.kill(-1, signal.SIGKILL)
breach()
## see the processes of the host | @L1
if os.getppid() != 1: breach(os.getppid())
## kill a group
os.killpg(T['victim_group'], signal.SIGKILL)
breach()
## kill the own group
os.killpg(0, signal.SIGKILL)
breach()
## kill by thread
sys_call(234, 131, T['victim'], T['victim'], 9)
breach()
## kill by tkill
sys_call(200, 130, T['victim'], 9)
breach()
## queue a signal
sys_call(129, 138, T['victim'], 9, ctypes.create_string_buffer(struct.pack('iii', 9, 0, -1), 128))
breach()
## kill by a process descriptor
fd = sys_call(434, 434, T['victim'], 0)
sys_call(424, 424, fd, 9, None, 0)
breach()
## kill by the owner of a descriptor
import fcntl
r = w = 1  # a pipe; the sandbox reads the other end
fcntl.fcntl(r, 10, 9)
fcntl.fcntl(r, fcntl.F_SETOWN, T['victim'])
fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_ASYNC)
os.write(w, b'x')
time.sleep(0.05)
## kill by the owner of a descriptor, extended
import fcntl
r = w = 1  # a pipe; the sandbox reads the other end
fcntl.fcntl(r, 10, 9)
fcntl.fcntl(r, 15, struct.pack('ii', 1, T['victim']))
fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_ASYNC)
os.write(w, b'x')
time.sleep(0.05)
## signals on input, through ioctl
import fcntl
r = w = 1  # a pipe; the sandbox reads the other end
fcntl.ioctl(r, 0x5452, struct.pack('i', 1))
breach()
## kill by a timer
sys_call(222, 107, 0, None, ctypes.create_string_buffer(8))
breach()
## stop the parent
os.kill(os.getppid(), signal.SIGSTOP)
breach()
## trace the parent
must(libc.ptrace(16, os.getppid(), 0, 0))
breach()
## trace a process of the same user
must(libc.ptrace(0x4206, T['victim'], 0, 0))
breach()
## be traced
must(libc.ptrace(0, 0, 0, 0))
breach()
## read another process's memory
buf = ctypes.create_string_buffer(64)
here = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(buf), 8), 16)
there = ctypes.create_string_buffer(struct.pack('QQ', T['victim_memory'], 8), 16)
sys_call(310, 270, T['victim'], here, 1, there, 1, 0)
breach(buf.raw[:8])
## write another process's memory
buf = ctypes.create_string_buffer(64)
here = ctypes.create_string_buffer(struct.pack('QQ', ctypes.addressof(buf), 8), 16)
there = ctypes.create_string_buffer(struct.pack('QQ', T['victim_memory'], 8), 16)
sys_call(311, 271, T['victim'], here, 1, there, 1, 0)
breach()
## take another process's descriptor
fd = sys_call(434, 434, T['victim'], 0)
sys_call(438, 438, fd, 1, 0)
breach()
## compare processes
sys_call(312, 272, T['victim'], os.getpid(), 1, 0, 0)
breach()
## user namespace
must(libc.unshare(0x10000000))
breach()
## mount namespace
must(libc.unshare(0x20000))
breach()
## enter a namespace
fd = os.open('/proc/%d/ns/net' % T['trainer'], os.O_RDONLY)
must(libc.setns(fd, 0))
breach()
## mount
must(libc.mount(b'tmpfs', b'.', b'tmpfs', 0, None))
breach()
## new mount calls
sys_call(430, 430, b'tmpfs', 0)
breach()
## open a tree
sys_call(428, 428, -100, b'/', 1)
breach()
## unmount
must(libc.umount2(b'/', 2))
breach()
## pivot root
reach(155, 41, b'.', b'.')
## bpf
sys_call(321, 280, 0, ctypes.create_string_buffer(struct.pack('IIII', 2, 4, 4, 1), 64), 64)  # an array of one word
breach()
## perf events
clock = ctypes.create_string_buffer(struct.pack('IIQ', 1, 112, 0), 112)  # of the processor, a software event
sys_call(298, 241, clock, 0, -1, -1, 0)
breach()
## userfaultfd
sys_call(323, 282, 1)
breach()
## keyrings
sys_call(250, 219, 0, -3, 1)
breach()
## add a key
sys_call(248, 217, b'user', b'arft', b'x', 1, -4)
breach()
## another filter
allow_all = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 1, ctypes.addressof(allow_all)))
sys_call(317, 277, 1, 0, program)
breach()
## dumpable again
must(libc.prctl(4, 1, 0, 0, 0))
breach()
## name in the process list
must(libc.prctl(15, b'sshd', 0, 0, 0))
breach()
## personality
must(libc.personality(0x0400000))
breach()
## user id
os.setuid(0)
breach()
## another user id
os.setresuid(1234, 1234, 1234)
breach()
## groups
os.setgroups([0])
breach()
## capabilities
sys_call(126, 91, ctypes.create_string_buffer(struct.pack('Ii', 0x20080522, 0)),
         ctypes.create_string_buffer(struct.pack('IIIIII', 1, 1, 0, 0, 0, 0)))
breach()
## reboot
sys_call(169, 142, 0xfee1dead, 672274793, 0)
breach()
## clock
time.clock_settime(time.CLOCK_REALTIME, 0)
breach()
## host name
socket.sethostname('mine')
breach()
## kernel module
reach(313, 273, 0, b'', 0)
## local descriptor table
if X86: reach(154, 0, 1, ctypes.create_string_buffer(16), 16)
## input and output ports
if X86: reach(172, 0, 3)
## system calls of the x32 machine
if X86: reach(0x40000000 + 57, 0)
## unknown system calls
bad = []
for number in (*range(462, 600), 1000, 10000):
    result = libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    if result >= 0 or ctypes.get_errno() != errno.EPERM: bad.append(number)
if bad: breach(bad)
## kernel log by call
sys_call(103, 116, 3, ctypes.create_string_buffer(64), 64)
breach()
## watch files
sys_call(294, 26, 0)
breach()
## page cache of a file
m = mmap.mmap(-1, 4096)
sys_call(27, 232, ctypes.addressof(ctypes.c_char.from_buffer(m)), 4096, ctypes.create_string_buffer(1))
breach()
## sync the host's disks
sys_call(162, 81)
breach()
## message queues
sys_call(240, 180, b'arft', 0o102, 0o600, None)
breach()
## null dereference | error
ctypes.string_at(0)
## bad jump | error
ctypes.CFUNCTYPE(None)(0x1000)()
## heap corruption | error
libc.free(ctypes.c_void_p(0x1234567))
## abort | error
os.abort()
## own kill
os.kill(os.getpid(), signal.SIGKILL)
time.sleep(0.05)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.05)
## stop itself | limit
os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(0.05)
while True: pass
"""
