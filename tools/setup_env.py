# ruff: noqa: UP020, UP024, UP032, SIM115
"""Makes the project's virtual environment, or finds in a moment that it is there already.

The Makefile runs it with the Python that the environment is to be made of. That may be a Python
far too old, and who has one should read a sentence about it, not a SyntaxError: so this file
keeps to what Python 2.7 can parse (no f-strings, no annotations, no `raise ... from`), and to the
standard library.

What it leaves in the environment: `setup.json`, the stamp, which is written last and says what
the environment was made from; `setup.lock`, by which it knows the environment for its own;
`setup.log`, all that pip said; `peers`, with a folder for each of PEERS, which no interpreter looks
into by itself.
"""

import argparse
import collections
import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
REQUIREMENTS = os.path.join(ROOT, "requirements.txt")

# What the tests compare with but what must not lie beside the other packages: mmdet imports them
# wherever it finds them. requirements-NAME.txt has the pins of each, and says more.
PEERS = ("mmpretrain", "transformers")

OLDEST = (3, 10)
TOO_NEW = (3, 14)

GB = 1e9
# (in the environment, in the temporary folder that pip downloads to), measured on Linux. Nearly
# all the difference is the CUDA libraries that come with torch's ordinary wheels.
FULL_GB = (7.0, 3.0)
CPU_GB = (2.5, 1.0)

# A sign of life at least this often: unpacking torch takes pip a silent minute.
HEARTBEAT_S = 10.0

# The modules whose import proves the environment, those that need system libraries first.
PROOF = "import cv2, torch, torchvision, mmcv, mmengine, mmdet, pycocotools.mask, pkg_resources"

NETWORK_TROUBLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError"
    r"|SSLError|ProtocolError|Failed to establish a new connection|Name or service not known"
    r"|Temporary failure in name resolution|Network is unreachable|Connection refused"
    r"|Connection reset|Read timed out"
)


class SetupError(Exception):
    """What keeps the environment from being made, in one sentence for the user."""


class Progress:
    """Prints lines that start with the seconds since the set-up began."""

    def __init__(self):
        self.start = time.time()

    def say(self, text):
        """Prints one line at once, also where the output is a pipe."""
        sys.stdout.write("[{:4.0f} s] {}\n".format(time.time() - self.start, text))
        sys.stdout.flush()


# Can it work here?


def check_python(version, executable):
    """Raises unless the pinned wheels run on this version of Python.

    Args:
        version: `sys.version_info`, or the start of it.
        executable: where that Python is, for the message.
    """
    found = "PYTHON is {} of version {}".format(executable, ".".join(map(str, version[:3])))
    fix = "name another one, for example: make demo PYTHON=python3.12"
    if tuple(version[:2]) < OLDEST:
        raise SetupError("{}, but torch needs at least 3.10: {}".format(found, fix))
    if tuple(version[:2]) >= TOO_NEW:
        raise SetupError(
            "{}, but mmengine calls pkgutil.find_loader, which Python 3.14 no longer has, "
            "so it needs 3.10 to 3.13: {}".format(found, fix)
        )


def check_venv_module():
    """Raises unless this Python can make virtual environments (Debian splits that off)."""
    missing = None
    for name in ("venv", "ensurepip"):
        try:
            __import__(name)
        except ImportError:
            missing = missing or name
    if missing:
        raise SetupError(
            "{} has no module {}, which making a virtual environment needs: install it (Debian "
            "and Ubuntu: apt install python{}.{}-venv), or name another Python with PYTHON=".format(
                sys.executable, missing, sys.version_info[0], sys.version_info[1]
            )
        )


def existing_parent(path):
    """Returns the path itself, or the nearest folder above it that exists."""
    path = os.path.abspath(path)
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def check_disk(venv, cpu_only):
    """Raises unless there is room for the environment and for what pip downloads on the way.

    The environment variable SETUP_NEED_GB replaces the first of the two estimates.

    Args:
        venv: where the environment will be.
        cpu_only: whether torch comes without the CUDA libraries.
    """
    venv_gb, temp_gb = CPU_GB if cpu_only else FULL_GB
    venv_gb = float(os.environ.get("SETUP_NEED_GB") or venv_gb)
    # Both are often on the same disk, which then has to hold the sum.
    needs = collections.OrderedDict()
    for path, gigabytes in ((venv, venv_gb), (tempfile.gettempdir(), temp_gb)):
        device = os.stat(existing_parent(path)).st_dev
        first_path, so_far = needs.get(device, (path, 0.0))
        needs[device] = (first_path, so_far + gigabytes)
    for path, gigabytes in needs.values():
        free = shutil.disk_usage(existing_parent(path)).free / GB
        if free < gigabytes:
            raise SetupError(
                "Too little disk at {}: the set-up needs {:.1f} GB and {:.1f} GB are free, so free "
                "some, move the environment with VENV= or pip's temporary files with TMPDIR=, or "
                "take CPU-only wheels with TORCH_INDEX=".format(path, gigabytes, free)
            )


# What is there already?


def peer_requirements(peer):
    """Returns the path of the file with the pins of one of PEERS."""
    return os.path.join(ROOT, "requirements-{}.txt".format(peer))


def read_stamp(venv):
    """Returns what the environment was made from, or None if its set-up was never finished."""
    try:
        with io.open(os.path.join(venv, "setup.json"), encoding="utf-8") as file:
            stamp = json.load(file)
    except (IOError, ValueError):
        return None
    return stamp if isinstance(stamp, dict) and os.path.exists(venv_python(venv)) else None


def write_stamp(venv, stamp):
    """Writes the stamp in one move, so that there is never half a one."""
    path = os.path.join(venv, "setup.json")
    with open(path + ".new", "w") as file:
        json.dump(stamp, file, indent=2, sort_keys=True)
    os.rename(path + ".new", path)


def wanted_stamp(python, torch_index):
    """Returns the stamp of the environment that is asked for.

    Args:
        python: the version of Python, like "3.12", or None for whichever the environment has.
        torch_index: URL of the index for torch, or None for whichever was used before.
    """
    pins = hashlib.sha256()
    for path in [REQUIREMENTS] + [peer_requirements(peer) for peer in PEERS]:
        with open(path, "rb") as file:
            pins.update(file.read())
    return {
        "pins": pins.hexdigest(),
        "project": ROOT,
        "python": python,
        "torch_index": torch_index,
    }


def plan(venv, wanted):
    """Returns what is to be done: "nothing", "update", "rebuild" or "create".

    Nothing that this script did not make itself is ever changed or removed: such a folder raises.

    Args:
        venv: where the environment is, or will be.
        wanted: the stamp asked for; what is None in it may be anything.
    """
    stamp = read_stamp(venv)
    if stamp is not None:
        given = {key: value for key, value in wanted.items() if value is not None}
        if all(stamp.get(key) == value for key, value in given.items()):
            return "nothing"
        fixed = [key for key in given if key in ("python", "torch_index")]
        return "update" if all(stamp.get(key) == given[key] for key in fixed) else "rebuild"
    if not os.path.lexists(venv):
        return "create"
    if not os.path.isdir(venv):
        raise SetupError("VENV={} is not a folder: name another place with VENV=".format(venv))
    if os.path.exists(os.path.join(venv, "setup.lock")):
        return "rebuild"
    if os.listdir(venv):
        raise SetupError(
            "VENV={} is there already, and not made by this set-up, so it stays as it is: "
            "remove it, or name another place with VENV=".format(venv)
        )
    return "create"


# Doing it


def lock(venv):
    """Waits until no other set-up works on this environment.

    Returns:
        The open lock file. The system frees the lock when the process ends, however it ends, and
        when the pip that it started has ended too.
    """
    import fcntl

    if not os.path.isdir(venv):
        os.makedirs(venv)
    file = open(os.path.join(venv, "setup.lock"), "w")
    # A pip outlives a killed set-up, and must not go on in an environment made anew.
    os.set_inheritable(file.fileno(), True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (IOError, OSError):
        sys.stdout.write("Waiting for another set-up of {}\n".format(venv))
        sys.stdout.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def venv_python(venv):
    """Returns the path of the environment's interpreter."""
    return os.path.join(venv, "bin", "python")


def clear(venv):
    """Empties the environment but for the lock file, which this process holds."""
    for name in os.listdir(venv):
        path = os.path.join(venv, name)
        if name == "setup.lock":
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.remove(path)


def empty_peers(venv):
    """Removes what an earlier set-up put into the folders of the peers.

    pip does not look at what a target folder holds: of two versions both would stay.
    """
    path = os.path.join(venv, "peers")
    if os.path.isdir(path):
        shutil.rmtree(path)


def child_environ():
    """Returns the environment variables without those that would lead pip out of the venv."""
    leading_out = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    environ = {key: value for key, value in os.environ.items() if key not in leading_out}
    environ.update(PIP_USER="0", PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    return environ


def only_this_index(environ, pip_config):
    """Returns an environment in which pip knows no index but the one on its command line.

    pip's files may name further indexes and folders of wheels, and pip would take torch from
    any of them. They are ignored, all but what says how to reach a server.

    Args:
        environ: the environment variables to start from.
        pip_config: what `pip config list` prints.
    """
    unwanted = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX")
    environ = {key: value for key, value in environ.items() if key not in unwanted}
    environ["PIP_CONFIG_FILE"] = os.devnull
    reach = r"^(?:global|install)\.(cert|client-cert|proxy|timeout|trusted-host)='(.*)'$"
    for name, value in re.findall(reach, pip_config, re.M):
        environ.setdefault("PIP_" + name.upper().replace("-", "_"), value)
    return environ


def torch_pins():
    """Returns the pins of torch and torchvision as requirements.txt has them."""
    with io.open(REQUIREMENTS, encoding="utf-8") as file:
        return re.findall(r"^(?:torch|torchvision)==\S+", file.read(), re.M)


def without_password(url):
    """Returns the URL as it may be shown: without user and password."""
    return re.sub(r"//[^/@]*@", "//", url)


def worth_showing(line):
    """Returns a short form of a line of pip's that tells how far it is, or None of any other."""
    match = re.match(r"(Collecting|Processing) ([^\s(]+)", line)
    if match:
        return "{} {}".format(match.group(1), os.path.basename(match.group(2)))
    match = re.match(r"Installing collected packages: (.*)", line)
    if match:
        return "Installing packages: {}".format(match.group(1).count(",") + 1)
    return line[:120] if line.startswith("WARNING: Retrying") else None


def run_shown(command, environ, log, progress):
    """Runs pip; all that it prints goes to the log, and what shows its progress to the user.

    Args:
        command: the command and its arguments.
        environ: its environment variables.
        log: an open text file.
        progress: a `Progress`.

    Returns:
        The exit status, and the lines that the command printed.
    """
    import queue
    import threading

    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environ,
        close_fds=False,  # pip holds the lock too
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
    )
    printed = queue.Queue()

    def read():
        for line in process.stdout:
            printed.put(line.rstrip())
        printed.put(None)

    threading.Thread(target=read, daemon=True).start()
    lines, latest = [], "starting"
    try:
        while True:
            try:
                line = printed.get(timeout=HEARTBEAT_S)
            except queue.Empty:
                progress.say("... {}".format(latest))
                continue
            if line is None:
                return process.wait(), lines
            lines.append(line)
            log.write(line + "\n")
            if worth_showing(line):
                latest = worth_showing(line)
                progress.say(latest)
    finally:
        if process.poll() is None:
            process.kill()


def explain(lines, venv, index):
    """Returns the one sentence that says why pip failed, from what it printed.

    Args:
        lines: pip's output.
        venv: where the environment is; the log lies there.
        index: URL of the index that was asked for, or None for pip's own.
    """
    text = "\n".join(lines)
    log = os.path.join(venv, "setup.log")
    where = "the index {}".format(without_password(index)) if index else "the package index"
    option = "TORCH_INDEX" if index else "PIP_INDEX_URL"
    if "No space left on device" in text:
        return (
            "The disk filled up while pip installed into {}: free some, or move the environment "
            "with VENV= or pip's temporary files with TMPDIR=, and run the same again".format(venv)
        )
    if NETWORK_TROUBLE.search(text):
        return (
            "No network: {} cannot be reached ({}), so check the connection, the proxy or {}, "
            "and run the same again; pip's own words are in {}".format(
                where, NETWORK_TROUBLE.search(text).group(), option, log
            )
        )
    missing = re.search(r"No matching distribution found for (\S+)", text)
    if missing:
        # pip may keep quiet about a server that it cannot reach, and then knows of no version.
        nothing = "(from versions: none)" in text
        return "{} has no wheel of {} {}: check {}; pip's own words are in {}".format(
            where[0].upper() + where[1:],
            missing.group(1),
            "at all, or cannot be reached" if nothing else "for the Python of {}".format(venv),
            option,
            log,
        )
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["nothing"]
    return "pip failed and said '{}': all of its words are in {}".format(errors[-1], log)


def install(venv, torch_index, progress):
    """Installs the pins, the package itself, editable, and each peer in a folder of its own.

    Args:
        venv: where the environment is.
        torch_index: URL of the index to take torch and torchvision from, or None.
        progress: a `Progress`.
    """
    pip = [venv_python(venv), "-m", "pip"]
    environ = child_environ()
    wheels = ["install", "--only-binary=:all:", "--progress-bar=off"]
    steps = []
    if torch_index:
        config = subprocess.check_output(pip + ["config", "list"], universal_newlines=True)
        # Without dependencies: those come from the ordinary index, with all the other pins.
        torch = wheels + ["--no-deps", "--index-url", torch_index] + torch_pins()
        steps.append(
            (
                "torch and torchvision from {}".format(without_password(torch_index)),
                torch,
                only_this_index(environ, config),
                torch_index,
            )
        )
    package = ["install", "--no-deps", "--no-build-isolation", "--editable", ROOT]
    steps.append(("the pins of requirements.txt", wheels + ["-r", REQUIREMENTS], environ, None))
    steps.append(("mmconvnext itself, editable", package, environ, None))
    empty_peers(venv)
    for peer in PEERS:
        # Without dependencies: torch and others that it shares with us are not to be there twice.
        target = ["--no-deps", "--target", os.path.join(venv, "peers", peer)]
        arguments = wheels + target + ["-r", peer_requirements(peer)]
        title = "{}, for the tests, in a folder of its own".format(peer)
        steps.append((title, arguments, environ, None))
    with io.open(os.path.join(venv, "setup.log"), "w", encoding="utf-8") as log:
        for number, (title, arguments, step_environ, index) in enumerate(steps, start=1):
            progress.say("Step {}/{}: {}".format(number, len(steps), title))
            status, lines = run_shown(pip + arguments, step_environ, log, progress)
            if status != 0:
                log.flush()
                raise SetupError(explain(lines, venv, index))


def create(venv):
    """Makes an empty environment with pip in it, of the Python that runs this script."""
    command = [sys.executable, "-m", "venv", venv]
    process = subprocess.Popen(
        command,
        env=child_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    output = process.communicate()[0].strip()
    if process.returncode != 0:
        said = output.splitlines()[-1] if output else "nothing"
        raise SetupError("'{}' failed and said '{}'".format(" ".join(command), said))
    # Wherever in the project it lies, neither git nor ruff shall look into it.
    with open(os.path.join(venv, ".gitignore"), "w") as file:
        file.write("*\n")


def prove(venv):
    """Imports what was installed, in the environment's own interpreter; raises if that fails."""
    process = subprocess.Popen(
        [venv_python(venv), "-W", "ignore", "-c", PROOF],
        cwd=venv,
        env=child_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    output = process.communicate()[0].strip()
    if process.returncode == 0:
        return
    said = output.splitlines()[-1] if output else "exit status {}".format(process.returncode)
    library = re.search(r"(lib\S+\.so\S*): cannot open shared object file", said)
    if library:
        raise SetupError(
            "The system library {} is missing, which a wheel needs (OpenCV's, on Debian and "
            "Ubuntu: apt install libgl1 libglib2.0-0): install it and run the same again".format(
                library.group(1)
            )
        )
    raise SetupError("The environment {} was made but does not work: {}".format(venv, said))


def set_up(venv, python_chosen, torch_index):
    """Brings the environment to what is asked for, with as little work as that takes.

    Args:
        venv: where the environment is, or will be.
        python_chosen: whether the user named the Python that runs this script. If not, an
            environment that is there keeps its own.
        torch_index: URL of the index for torch, or None to keep to the one used before, if any.
    """
    this_python = "{}.{}".format(*sys.version_info[:2])
    wanted = wanted_stamp(this_python if python_chosen else None, torch_index)
    task = plan(venv, wanted)
    if task == "nothing":
        return
    if task != "update":
        check_python(sys.version_info, sys.executable)
        check_venv_module()
        # Other systems' ordinary wheels of torch have no CUDA in them.
        check_disk(venv, bool(torch_index) or not sys.platform.startswith("linux"))
    with lock(venv):
        # Another set-up may have done it all while this one waited.
        task = plan(venv, wanted)
        if task != "nothing":
            carry_out(task, venv, wanted, this_python)


def carry_out(task, venv, wanted, this_python):
    """Creates, rebuilds or updates the environment and stamps it.

    Args:
        task: "create", "rebuild" or "update".
        venv: where the environment is, or will be.
        wanted: the stamp asked for.
        this_python: the version of the Python that runs this script, like "3.12".
    """
    progress, before = Progress(), read_stamp(venv) or {}
    # While there is no stamp, the next set-up knows that this one was interrupted.
    if before:
        os.remove(os.path.join(venv, "setup.json"))
    python = this_python
    if task == "update":
        progress.say("The pins or the place of the project changed: updating {}".format(venv))
        python = before["python"]
    else:
        if before:
            progress.say(
                "{} was made with Python {} and torch from {}, which is not what is asked for: "
                "making it anew".format(
                    venv,
                    before.get("python"),
                    without_password(before.get("torch_index") or "the ordinary index"),
                )
            )
        elif os.path.exists(os.path.join(venv, "pyvenv.cfg")):
            progress.say("The last set-up of {} did not end well: making it anew".format(venv))
        clear(venv)
        progress.say("Making {} with Python {}; this takes minutes, once".format(venv, python))
        create(venv)
    torch_index = wanted["torch_index"] or before.get("torch_index")
    install(venv, torch_index, progress)
    progress.say("Checking that it all imports")
    prove(venv)
    write_stamp(venv, dict(wanted, python=python, torch_index=torch_index))
    progress.say("{} is ready".format(venv))


def interrupt(signum, frame):
    """Turns SIGTERM into what Ctrl-C does, so that pip is ended too."""
    raise KeyboardInterrupt


def main(arguments=None):
    """Parses the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Makes the project's virtual environment.")
    parser.add_argument("--venv", default=".venv", help="where it is, or will be")
    parser.add_argument("--torch-index", help="URL of an index with CPU-only wheels of torch")
    parser.add_argument(
        "--python-chosen", action="store_true", help="rebuild what another Python made"
    )
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        set_up(os.path.abspath(options.venv), options.python_chosen, options.torch_index)
    except SetupError as error:
        sys.stderr.write("{}.\n".format(error))
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("The set-up was interrupted: run the same again to take it up.\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
