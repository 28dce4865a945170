"""Attacks on files: reading, writing and changing what lies outside, and ways around the rules."""

TEXT = r"""
## read a secret
breach(open(T['secret']).read())
## read shadow
breach(open('/etc/shadow').read())
## read passwd
breach(open('/etc/passwd').read())
## read by mmap
fd = os.open(T['secret'], os.O_RDONLY)
breach(mmap.mmap(fd, 0, prot=mmap.PROT_READ)[:9])
## read by numpy memmap
import numpy as np
breach(np.memmap(T['secret'], mode='r')[:9])
## read by numpy fromfile
import numpy as np
breach(np.fromfile(T['secret'], np.uint8)[:9])
## read by numpy load
import numpy as np
breach(np.load(T['array'], allow_pickle=True))
## read by cv2
import cv2
if cv2.imread(T['picture']) is not None: breach()
## read by PIL
import PIL.Image
breach(PIL.Image.open(T['picture']).size)
## read by sendfile
src = os.open(T['secret'], os.O_RDONLY)
os.sendfile(os.open('a', os.O_WRONLY | os.O_CREAT), src, 0, 9)
breach(open('a').read())
## bomb read by cv2 | limit
import cv2, zlib
def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
open('a.png', 'wb').write(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 16000, 16000, 1, 0, 0, 0, 0))
    + chunk(b'IDAT', zlib.compress(bytes(16000 * 2001))) + chunk(b'IEND', b''))
if cv2.imread('a.png') is not None: breach()
## read with openat2
how = ctypes.create_string_buffer(struct.pack('QQQ', 0, 0, 0), 24)
sys_call(437, 437, -100, T['secret'].encode(), how, 24)
breach()
## read by a handle
mount_fd = os.open(os.path.dirname(T['readable']), os.O_RDONLY)  # of the same file system
fd = sys_call(304, 265, mount_fd, ctypes.create_string_buffer(bytes.fromhex(T['handle'])), 0)
breach(os.read(fd, 9))
## list the root folder of the host
names = os.listdir('/')
if 'etc' in names and 'proc' in names: breach(names)
## see what the host has | @L1
if os.path.exists('/etc/passwd') or os.path.exists('/proc/self'): breach()
## list homes
for p in ('/root', '/home'):
    try: names = os.listdir(p)
    except OSError: continue
    if names: breach(names)
## list the temporary folder
breach(os.listdir(T['folder']))
## cloud credentials
for p in T['credentials']:
    try: open(p).read()
    except OSError: continue
    breach(p)
## environment has no secret
if any('s3cret' in v for v in os.environ.values()): breach()
## environment in the C library
libc.getenv.restype = ctypes.c_char_p
if libc.getenv(b'ARFT_SECRET'): breach()
## environment of the parent
breach(open('/proc/%d/environ' % os.getppid(), 'rb').read())
## environment of the trainer
breach(open('/proc/%d/environ' % T['trainer'], 'rb').read())
## own environment file
if b's3cret' in open('/proc/self/environ', 'rb').read(): breach()
## memory of the parent
open('/proc/%d/mem' % os.getppid(), 'r+b', 0)
breach()
## maps of the trainer
breach(open('/proc/%d/maps' % T['trainer']).read())
## own memory through proc
f = open('/proc/self/mem', 'r+b', 0)
breach()
## root of another process
breach(os.listdir('/proc/%d/root/' % T['trainer']))
## working folder of the trainer
breach(os.readlink('/proc/%d/cwd' % T['trainer']))
## descriptors of the trainer
breach(os.listdir('/proc/%d/fd' % T['trainer']))
## kernel settings
open('/proc/sys/kernel/core_pattern', 'w').write('x')
breach()
## sysrq
open('/proc/sysrq-trigger', 'w').write('x')
breach()
## control groups
open('/sys/fs/cgroup/cgroup.procs', 'w').write('0')
breach()
## kernel log
breach(open('/dev/kmsg').read(1))
## disk device
for p in ('/dev/vda', '/dev/sda', '/dev/nvme0n1', '/dev/loop0'):
    try: os.open(p, os.O_RDONLY)
    except OSError: continue
    breach(p)
## terminal
os.open(T['terminal'], os.O_RDWR | os.O_NOCTTY)
breach()
## new terminal
os.openpty()
breach()
## write to a terminal's queue
import fcntl
fcntl.ioctl(os.open(T['terminal'], os.O_RDWR | os.O_NOCTTY), 0x5412, b'x')
breach()
## shared memory folder
open('/dev/shm/arft-left', 'w').write('x')
breach()
## temporary folder
open('/tmp/arft-left', 'w').write('x')
breach()
## write a new file
open(os.path.join(T['folder'], 'new'), 'w').write('x')
breach()
## append to a file
open(T['secret'], 'a').write('x')
breach()
## truncate a file
must(libc.truncate(T['secret'].encode(), ctypes.c_long(0)))
breach()
## truncate by open for reading
os.open(T['secret'], os.O_RDONLY | os.O_TRUNC)
breach()
## truncate by access mode three
os.open(T['secret'], 3 | os.O_TRUNC)
breach()
## truncate a readable file
os.truncate(T['readable'], 0)
breach()
## truncate a readable file by open for reading
os.open(T['readable'], os.O_RDONLY | os.O_TRUNC)
breach()
## truncate a readable file by access mode three
os.open(T['readable'], 3 | os.O_TRUNC)
breach()
## write a readable file
open(T['readable'], 'r+').write('x')
breach()
## map a readable file for writing
fd = os.open(T['readable'], os.O_RDWR)
m = mmap.mmap(fd, 0)
m[0] = 65
breach()
## unlink a file
os.unlink(T['secret'])
breach()
## rename a file
os.rename(T['secret'], T['secret'] + '2')
breach()
## rename a file into the scratch folder
os.rename(T['secret'], 'mine')
breach(open('mine').read())
## rename a file out
open('mine', 'w').write('x')
os.rename('mine', os.path.join(T['folder'], 'new'))
breach()
## make a folder outside
os.mkdir(os.path.join(T['folder'], 'new'))
breach()
## remove a folder outside
os.rmdir(os.path.join(T['folder'], 'empty'))
breach()
## change a mode outside
os.chmod(T['secret'], 0o777)
## change a mode by descriptor
os.fchmod(os.open(T['readable'], os.O_RDONLY), 0o777)
## change a mode by the newest call
sys_call(452, 452, -100, T['secret'].encode(), 0o777, 0)
## change times outside
os.utime(T['secret'], (1, 1))
## change an owner outside
os.chown(T['secret'], 12345, 12345)
breach()
## extended attribute set
os.setxattr(T['readable'], 'user.x', b'1')
breach()
## extended attribute read
breach(os.getxattr(T['readable'], 'user.bait'))
## symbolic link
os.symlink(T['secret'], 'link')
breach(open('link').read())
## symbolic link as output
os.symlink(T['picture'], 'path_to_output_image.jpg')
breach()
## hard link as output
os.link(T['picture'], 'path_to_output_image.jpg')
breach()
## hard link by descriptor
fd = os.open(T['readable'], os.O_RDONLY)
sys_call(265, 37, fd, b'', -100, b'mine', 0x1000)
breach()
## path with dots
breach(open('../' * 20 + T['secret'].lstrip('/')).read())
## path with dots out of the scratch folder
if os.listdir('..') != ['call']: breach(os.listdir('..'))  # at L1 a folder of its own, with the scratch folder alone
## folder descriptor outside
fd = os.open(T['folder'], os.O_PATH)
breach(os.open('secret', os.O_RDONLY, dir_fd=fd))
## change folder
os.chdir(T['folder'])
breach(open('secret').read())
## folders of the calls
breach(os.listdir(T['scratch_root']))
## change root
os.mkdir('r')
os.chroot('r')
breach()
## device node
os.mknod('null', 0o666 | 0o020000, os.makedev(1, 3))
breach()
## FIFO as output
os.mkfifo('path_to_output_image.jpg')
breach()
## socket as output
sys_call(133, 33, b'path_to_output_image.jpg', 0o140600, 0) if X86 else sys_call(0, 33, -100, b'x', 0o140600, 0)
breach()
## file with set-user bit
fd = os.open('a', os.O_CREAT | os.O_WRONLY, 0o6777)
os.write(fd, b'#!/bin/sh\necho BREACH\n')
os.close(fd)
os.execv('a', ['a'])
## tamper with site-packages
import numpy
open(os.path.join(os.path.dirname(numpy.__file__), 'left.py'), 'w').write('x')
breach()
## tamper with byte code
import json
os.makedirs(os.path.dirname(json.__cached__), exist_ok=True)
open(json.__cached__, 'r+b').write(b'x')
breach()
## tamper with the sandbox
import arft_jax
p = os.path.join(os.path.dirname(arft_jax.__file__), 'tools', 'sandbox', 'worker.py')
open(p, 'a').write('#')
breach()
## read the repository
import arft_jax
breach(open(arft_jax.__file__).read())
## load a shared object
import shutil
for d, _, fs in os.walk(os.path.dirname(__import__('PIL').__file__)):
    for f in fs:
        if f.endswith('.so'):
            shutil.copy(os.path.join(d, f), f)
            try: ctypes.CDLL('./' + f)
            except OSError: continue  # this one needs others beside it
            breach(f)
## machine code in memory
m = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
breach()
## machine code by mprotect
libc.mmap.restype = ctypes.c_void_p
p = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_long(0))
must(libc.mprotect(ctypes.c_void_p(p), ctypes.c_size_t(4096), 5))
breach()
## machine code from a file
fd = os.open('a', os.O_RDWR | os.O_CREAT, 0o700)
os.write(fd, bytes(4096))
mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)
breach()
"""
