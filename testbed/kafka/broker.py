"""A Kafka broker (KRaft, one node) for as long as a `with` block lasts; its jars come from Maven once."""

from __future__ import annotations

import base64
import fcntl
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._scram import ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from confluent_kafka.cimpl import NewTopic

from testbed.served import LOCALHOST, ROOT, free_port
from vigil.errors import VigilError
from vigil.stream.kafka.metadata import committed

HERE = Path(__file__).parent
JARS = ROOT / "build" / "kafka"
HEAP = "-Xmx512m"
USER, PASSWORD = "vigil", "not-a-secret"


class NoBroker(VigilError):
    """A broker that did not come up; the message says what is missing, or ends with its log."""


class NotInstalled(NoBroker):
    """Java, Maven or Kafka's jars cannot be had here."""


def jars() -> Path:
    """The folder with Kafka's jars; fetched by Maven where they are not there yet.

    Raises:
        NotInstalled: without Java or Maven, or where Maven cannot fetch them.
    """
    for tool, package in (("java", "default-jre-headless"), ("mvn", "maven")):
        if shutil.which(tool) is None:
            raise NotInstalled(f"{tool} is missing, a Kafka broker needs it: apt-get install -y {package}")
    JARS.mkdir(parents=True, exist_ok=True)
    done = JARS / "complete"
    with (JARS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests that run side by side fetch once
        if not done.exists():
            command = ["mvn", "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
            command.append(f"-DoutputDirectory={JARS}")
            fetched = subprocess.run(command, capture_output=True, text=True, check=False)
            if fetched.returncode:
                raise NotInstalled(f"Maven could not fetch Kafka:\n{fetched.stdout}{fetched.stderr}")
            done.touch()
    return JARS


class Broker:
    """Runs a broker on the loopback interface; it can be stopped and started again with what it holds.

    Args:
        folder: for its data and log.
        port: to listen on; 0: a free one.
        keystore: PEM of a private key (PKCS #8) and its certificates; with it `secure_address` takes SASL_SSL
            (SCRAM-SHA-512) of `USER` with `PASSWORD`.
    """

    def __init__(self, folder: Path, port: int = 0, keystore: Path | None = None) -> None:
        self.port = port or free_port()
        self.address, self.secure_address = f"{LOCALHOST}:{self.port}", f"{LOCALHOST}:{free_port()}"
        self._folder, self._controller, self._keystore = folder, free_port(), keystore
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "server.properties").write_text(self._properties())
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._java("kafka.tools.StorageTool", "format", f"--cluster-id={identity}", "-c", "server.properties")
        self.start()
        try:
            self._settle()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, wait_s: float = 60.0) -> None:
        """Starts it; returns once it answers.

        Raises:
            NoBroker: where it does not.
        """
        log = self._folder / "log"
        with log.open("ab") as out:
            command = self._command(HEAP, "kafka.Kafka", "server.properties")
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        until_s = time.monotonic() + wait_s
        admin = self.admin()
        while not _answers(admin):
            if self._process.poll() is not None or time.monotonic() > until_s:
                self.stop()
                raise NoBroker(f"Kafka did not come up:\n{log.read_text()}")

    def stop(self, number: int = signal.SIGTERM, wait_s: float = 30.0) -> None:
        """Ends it, by SIGTERM or another signal."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(wait_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def cpu_s(self) -> float:
        """CPU seconds of the broker so far."""
        assert self._process
        return float(sum(psutil.Process(self._process.pid).cpu_times()[:2]))

    def wait(self) -> None:
        """Returns when it has ended."""
        if self._process:
            self._process.wait()

    def admin(self) -> AdminClient:
        """A client to make topics with."""
        return AdminClient({"bootstrap.servers": self.address, "reconnect.backoff.max.ms": 200, "log_level": 0})

    def create(self, names: Sequence[str], partitions: int = 3) -> None:
        """Makes topics.

        Raises:
            NoBroker: where it does not take them.
        """
        admin = self.admin()
        for name, future in admin.create_topics([NewTopic(name, partitions, 1) for name in names]).items():
            try:
                future.result(30)
            except KafkaException as failure:
                raise NoBroker(f"topic {name}: {failure.args[0].str()}") from None

    def _settle(self, wait_s: float = 60.0) -> None:
        """Returns once groups and transactions have coordinators, which are made when they are first asked for."""
        common = {"bootstrap.servers": self.address, "log_level": 0}
        reader = Consumer({**common, "group.id": "settle"})
        committed(reader, [TopicPartition("settle", 0)])
        reader.close()
        Producer({**common, "transactional.id": "settle"}).init_transactions(wait_s)
        if self._keystore:
            scram = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
            user = UserScramCredentialUpsertion(USER, scram, PASSWORD.encode())
            admin = self.admin()  # kept while it is asked: it takes its answers along
            admin.alter_user_scram_credentials([user])[USER].result(wait_s)

    def _command(self, *arguments: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}"
        # The thorough compiler keeps a core busy for minutes before it pays; ParallelGC was a little faster than G1.
        chosen = ["-XX:TieredStopAtLevel=1", "-XX:+UseParallelGC"]
        return ["java", log4j, *chosen, "-cp", f"{jars()}/*", *arguments]

    def _java(self, *arguments: str) -> str:
        command = self._command(*arguments)
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoBroker(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def _properties(self) -> str:
        clients = f"PLAINTEXT://{self.address}"
        secure: dict[str, str] = {}
        if self._keystore:
            clients += f",SASL_SSL://{self.secure_address}"
            secure = {
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(self._keystore),
                "sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config":
                    "org.apache.kafka.common.security.scram.ScramLoginModule required;",
            }  # fmt: skip
        values = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{LOCALHOST}:{self._controller}",
            "listeners": f"{clients},CONTROLLER://{LOCALHOST}:{self._controller}",
            "advertised.listeners": clients,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
            "log.dirs": "data",
            "num.partitions": "3",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "3",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "3",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "log.retention.bytes": "2000000000",
        }
        return "".join(f"{key}={value}\n" for key, value in (values | secure).items())


def _answers(admin: AdminClient) -> bool:
    try:
        return bool(admin.list_topics(timeout=0.5).brokers)
    except KafkaException:
        return False
