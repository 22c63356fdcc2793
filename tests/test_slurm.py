"""The queue on a real Slurm: one machine that is controller and node, started for these tests and ended with them.

Needs root, and ``apt-get install slurmctld slurmd slurm-client munge``.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import ase.build
import pytest

from stem_ae import jobs, simulate

pytest.importorskip("dbos")

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux" or os.geteuid() != 0 or not all(map(shutil.which, PROGRAMS)),
        reason="Slurm is not installed, or this is not root",
    ),
]

HOME = pathlib.Path(__file__).parents[1]

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def until(condition, what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout.strip()


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A running Slurm; its folder."""
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    host = output("hostname", "-s")
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, folder=folder, cores=os.cpu_count()))
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    munge = [f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munge.pid"]
    commands = [
        ["munged", "--force", "--foreground", *munge, f"--log-file={folder}/munge.log", f"--seed-file={folder}/seed"],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", host],
    ]
    with contextlib.ExitStack() as stack:
        for command in commands:
            log = stack.enter_context((folder / f"{command[0]}.out").open("wb"))
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            time.sleep(0.5)
        until(lambda: output("sinfo", "--noheader", "--format=%T") == "idle", f"an idle node, see {folder}")
        yield folder
        output("scancel", "--user=root")
    if before is None:
        del os.environ["SLURM_CONF"]
    else:
        os.environ["SLURM_CONF"] = before


class Worker:
    """A worker process that can be killed and started again."""

    def __init__(self, queue: jobs.Queue) -> None:
        self.queue = queue
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "stem_ae", "worker", "--queue", str(self.queue.root)], cwd=HOME,
            start_new_session=True,
        )  # fmt: skip

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def queue(slurm, tmp_path):
    """A queue whose calculations are Slurm's jobs."""
    root = tmp_path / "queue"
    root.mkdir()
    (root / "config.json").write_text(json.dumps({"executor": "slurm", "slots": 2, "slurm": ["--time=10"]}))
    return jobs.Queue.open(root)


@pytest.fixture
def worker(queue):
    worker = Worker(queue)
    yield worker
    worker.kill()


def leave_line(path: pathlib.Path, word: str, after: float) -> simulate.Command:
    code = f"import os,time; time.sleep({after}); os.write(os.open('{path}', 1089), b'{word} ')"  # append and create
    return simulate.Command(f'{sys.executable} -S -c "{code}"')


def listed() -> list[str]:
    return output("squeue", "--noheader", "--format=%j").split()


def test_a_relaxation_runs_as_a_job_of_slurm(queue, worker):
    ethene = ase.build.molecule("C2H4")
    job = queue.submit(simulate.Relax(engine="gfn1"), ethene)
    until(lambda: f"stem-ae-{job.id}" in listed() or job.state == "finished", "the job in Slurm's list")
    assert job.wait(120) == "finished"
    assert job.result().summary["bonds"]["C-C"]["mean"] == pytest.approx(1.33, abs=0.02)
    number = json.loads((job.calculation.folder / "slurm.json").read_text())["job"]
    assert "JobState=COMPLETED" in output("scontrol", "show", "job", number)
    assert "ExitCode=0:0" in output("scontrol", "show", "job", number)


def test_a_killed_worker_submits_nothing_twice(queue, worker, tmp_path):
    out = tmp_path / "out"
    submitted = [queue.submit(leave_line(out, str(k), 1.0)) for k in range(6)]
    for _ in range(3):
        time.sleep(2.0)
        worker.kill()
        worker.start()
    assert [job.wait(120) for job in submitted] == ["finished"] * 6
    assert sorted(out.read_text().split()) == [str(k) for k in range(6)]


def test_cancelling_ends_slurms_job_and_its_process(queue, worker, tmp_path):
    marker = tmp_path / "alive"
    code = f"import os,time; open('{marker}', 'w').write(str(os.getpid())); time.sleep(600)"
    job = queue.submit(simulate.Command(f'{sys.executable} -S -c "{code}"'))
    until(marker.exists, "the process")
    until(lambda: marker.read_text(), "its number")
    job.cancel()
    assert job.state == "cancelled"
    until(lambda: f"stem-ae-{job.id}" not in listed(), "Slurm to let it go")
    until(lambda: not pathlib.Path("/proc", marker.read_text()).exists(), "its end")


def test_a_dead_job_is_requeued_and_then_explained(queue, worker):
    """Its process is killed like by the out-of-memory killer: tried again, then failed with a sentence."""
    job = queue.submit(simulate.Command("sleep 600"), retries=1)
    for _ in range(2):
        until(lambda: _number(job), "the process")
        pid = _number(job)
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: job.state != "running" or _number(job) not in (None, pid), "what follows")
    assert job.wait(120) == "failed"
    assert "died" in job.error


def _number(job):
    try:
        return int(json.loads((job.calculation.folder / "process.json").read_bytes())["pid"])
    except (OSError, ValueError, KeyError):
        return None
