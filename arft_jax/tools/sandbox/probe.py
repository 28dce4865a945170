"""Canaries: a dozen attacks that a sandbox makes on its own host before it serves its first call.

That a system call which confines succeeded is not yet that it confines: so the attacks are attempted, with
baits outside the sandbox, and the baits are looked at afterwards.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence

HELD = 42  # exit status of a call in which every attack was refused

_SOURCE = """
import ctypes, mmap, os, resource, socket
bait = {bait}
libc = ctypes.CDLL(None, use_errno=True)
secret = os.path.join(bait['folder'], 'secret')

def must(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), 'refused')

def read_a_file(): open(secret).read()
def read_a_password_file(): open('/etc/passwd').read()
def list_a_folder(): os.listdir(bait['folder'])
def read_a_package_that_is_not_promised():
    for path in bait['unpromised']:
        try:
            open(path, 'rb').close()
            return
        except OSError:
            pass
    raise OSError('refused')
def write_a_file(): open(os.path.join(bait['folder'], 'new'), 'w').write('x')
def empty_a_file(): must(libc.truncate(secret.encode(), ctypes.c_long(0)))
def empty_a_file_by_open(): os.open(secret, os.O_TRUNC | 3)
def rename_a_file(): os.rename(secret, secret + '2')
def read_an_environment(): open('/proc/%d/environ' % bait['pid'], 'rb').read()
def follow_a_link():
    os.symlink(secret, 'link')
    open('link').read()
def connect():
    with socket.socket() as s:
        s.settimeout(1)
        s.connect(('127.0.0.1', bait['port']))
def connect_abstract():
    with socket.socket(socket.AF_UNIX) as s:
        s.connect('\\0' + bait['name'])
def signal_the_trainer(): os.kill(bait['pid'], 0)
def signal_the_worker(): os.kill(os.getppid(), 0)
def trace_the_worker(): must(libc.ptrace(16, os.getppid(), 0, 0))
def fork():
    if os.fork() == 0:
        os._exit(0)
def start_a_program(): os.execv('/bin/true', ['true'])
def make_machine_code(): mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
def make_a_namespace(): must(libc.unshare(0x10000000))
def raise_a_limit(): resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
def take_memory(): bytearray({memory_bytes} + (256 << 20))

try:
    os.chmod(secret, 0o777)  # answers success and does nothing
except OSError:
    pass
attacks = [f for f in list(globals().values()) if type(f) is type(must) and f is not must]
leaks = []
for attack in attacks:
    try:
        attack()
        leaks.append(attack.__name__.replace('_', ' '))
    except (OSError, MemoryError, ValueError):
        pass
if leaks:
    raise SystemExit(', '.join(leaks))
os._exit({held})
"""


@contextlib.contextmanager
def baits(unpromised: Sequence[str] = ()) -> Iterator[dict]:
    """Files, sockets and a process outside the sandbox; the value names them for :func:`source`.

    Args:
      unpromised: files of this host that no call may open (readable.py).
    """
    folder = tempfile.mkdtemp(prefix="arft-bait-")
    name = f"arft-bait-{secrets.token_hex(8)}"
    try:
        with open(os.path.join(folder, "secret"), "w", encoding="ascii") as f:
            f.write(name)
        with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
            unix.bind("\0" + name)
            unix.listen()
            yield {
                "folder": folder,
                "port": tcp.getsockname()[1],
                "name": name,
                "pid": os.getpid(),
                "unpromised": list(unpromised),
            }
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def source(bait: dict, memory_bytes: int) -> str:
    """The code that attempts the attacks; it ends with status HELD, or with an exception that names what went."""
    return _SOURCE.format(bait=json.dumps(bait), memory_bytes=memory_bytes, held=HELD)


def read_note(note: str) -> list[str]:
    """The attacks that went through, from the exception that the code ended with.

    >>> read_note("SystemExit: read a file, fork (line 54)")
    ['read a file', 'fork']
    """
    text = re.sub(r"^SystemExit: | \(line \d+\)$", "", note)
    return text.split(", ") if text else []


def damage(bait: dict) -> list[str]:
    """What happened to the baits, whatever the code said."""
    found = []
    secret = os.path.join(bait["folder"], "secret")
    try:
        with open(secret, encoding="ascii") as f:
            if f.read() != bait["name"]:
                found.append("a file outside was changed")
            if os.fstat(f.fileno()).st_mode & 0o777 == 0o777:
                found.append("a mode outside was changed")
    except OSError:
        found.append("a file outside was removed")
    if len(os.listdir(bait["folder"])) > 1:
        found.append("a file was made outside")
    return found
