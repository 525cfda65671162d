import fcntl
import signal
import subprocess
import sys
from pathlib import Path

from speech_qc.workers.private_folder import PREFIX, private_folder

ROOT = Path(__file__).resolve().parents[2]


def test_a_folder_is_its_users_alone_and_goes_at_the_end(tmp_path):
    with private_folder(tmp_path) as folder, private_folder(tmp_path) as other:
        assert folder != other and folder.parent == tmp_path and folder.name.startswith(PREFIX)
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "calls.db").write_text("x")
    assert not list(tmp_path.iterdir())


def test_the_folder_of_a_killed_server_goes_at_the_next_start_and_no_other(tmp_path):
    program = (
        "import pathlib, sys, time\nfrom speech_qc.workers.private_folder import private_folder\n"
        f"with private_folder(pathlib.Path({str(tmp_path)!r})) as folder:\n"
        "    print(folder, flush=True)\n    time.sleep(600)\n"
    )
    killed, living = (
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT / "service", stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    )
    try:
        assert killed.stdout is not None and living.stdout is not None
        left, used = Path(killed.stdout.readline().strip()), Path(living.stdout.readline().strip())
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        foreign = tmp_path / f"{PREFIX}not-ours"
        foreign.mkdir()
        assert left.exists()
        with private_folder(tmp_path):
            assert not left.exists() and used.exists() and foreign.exists()
            with (used / "lock").open() as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    taken = False
                except OSError:
                    taken = True
                assert taken
    finally:
        for process in (killed, living):
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
