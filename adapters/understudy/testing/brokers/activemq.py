"""ActiveMQ Classic from Debian's package: STOMP and OpenWire, KahaDB on disk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from understudy.testing.brokers.probes import answers_openwire, answers_stomp
from understudy.testing.brokers.server import Command, Server, ServerMissing

__all__ = ["ActiveMQ"]

_HOME = Path("/usr/share/activemq")
# A short life on a small machine: the first compiler only, one collector thread, little heap.
_SHORT_LIFE = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m"]
_LONG_LIFE = ["-Xms512m", "-Xmx512m"]
_CONFIGURATION = """\
<beans xmlns="http://www.springframework.org/schema/beans"
       xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
       xsi:schemaLocation="http://www.springframework.org/schema/beans
         http://www.springframework.org/schema/beans/spring-beans.xsd
         http://activemq.apache.org/schema/core
         http://activemq.apache.org/schema/core/activemq-core.xsd">
  <broker xmlns="http://activemq.apache.org/schema/core" brokerName={name} useJmx="false"
          useShutdownHook="true" schedulerSupport="false" dataDirectory={data}>
    {extra_xml}
    <persistenceAdapter><kahaDB directory={data}/></persistenceAdapter>
    {plugins}
    <systemUsage><systemUsage>
      <memoryUsage><memoryUsage limit="128 mb"/></memoryUsage>
      <storeUsage><storeUsage limit="4 gb"/></storeUsage>
      <tempUsage><tempUsage limit="1 gb"/></tempUsage>
    </systemUsage></systemUsage>
    <transportConnectors>
      <transportConnector name="openwire" uri={openwire}/>
      <transportConnector name="stomp" uri={stomp}/>
    </transportConnectors>
  </broker>
</beans>
"""


class ActiveMQ(Server):
    """An ActiveMQ Classic broker; up in about 3 seconds.

    ``port`` speaks STOMP, ``openwire_port`` OpenWire. Without ``users`` anybody may connect.
    ``extra_xml`` is put into the broker element, in which elements stand in alphabetical order, at
    the place of ``networkConnectors``; ``stomp_options`` go to the address where STOMP is spoken
    (``wireFormat.maxFrameSize=10000``). One that ``is_measured`` compiles what it runs much as it
    would in production.
    """

    kind = "activemq"
    package = "activemq"

    def __init__(
        self,
        *,
        name: str | None = None,
        folder: Path | None = None,
        port: int | None = None,
        openwire_port: int | None = None,
        users: Mapping[str, str] | None = None,
        extra_xml: str = "",
        stomp_options: str = "",
        is_measured: bool = False,
    ) -> None:
        super().__init__(name=name, folder=folder, port=port)
        self.openwire_port = self._claim_port(openwire_port)
        self.users = dict(users or {})
        self.extra_xml = extra_xml
        self.stomp_options = stomp_options
        self._java = ["java", *(_LONG_LIFE if is_measured else _SHORT_LIFE)]

    @property
    def uri(self) -> str:
        user, password = next(iter(self.users.items()), ("", ""))
        login = f"{quote(user, safe='')}:{quote(password, safe='')}@" if user else ""
        return f"stomp://{login}{self.host}:{self.port}"

    @property
    def openwire_uri(self) -> str:
        """The address for ActiveMQ's own protocol, for network connectors."""
        return f"tcp://{self.host}:{self.openwire_port}"

    def produce(self, queue: str, text: str, *, persistent: bool = True) -> None:
        """Send a text to a queue as a producer of JMS, with ActiveMQ's own tool."""
        tool = ["org.apache.activemq.console.Main", "producer", "--messageCount", "1"]
        told = ["--brokerUrl", self.openwire_uri, "--destination", f"queue://{queue}"]
        kind = ["--persistent", str(persistent).lower(), "--message", text]
        home = f"-Dactivemq.home={_HOME}"
        subprocess.run(
            [*self._java, "-XX:-UsePerfData", home, "-cp", _class_path(), *tool, *told, *kind],
            check=True,
            capture_output=True,
            timeout=60,
        )

    def check_installed(self) -> None:
        if not (_HOME / "bin/activemq.jar").exists():
            raise ServerMissing(self.package)
        if shutil.which("java") is None:
            raise ServerMissing("default-jre-headless")

    def _prepare(self) -> Command:
        at = self.folder
        (at / "conf").mkdir(exist_ok=True)
        (at / "tmp").mkdir(exist_ok=True)
        configuration = at / "conf/activemq.xml"
        configuration.write_text(self._configuration(), encoding="utf-8")
        path = f"{at / 'conf'}:{_class_path()}"
        properties = {
            "activemq.base": at,
            "activemq.home": _HOME,
            "activemq.conf": at / "conf",
            "activemq.data": at / "data",
            "java.io.tmpdir": at / "tmp",
        }
        options = [f"-D{name}={value}" for name, value in properties.items()]
        run = ["org.apache.activemq.console.Main", "start", f"xbean:file:{configuration}"]
        # -XX:-UsePerfData: no file in /tmp/hsperfdata_* that a SIGKILL would leave behind.
        java = [*self._java, "-XX:-UsePerfData", *options, "-cp", path, *run]
        return Command(java, {"HOME": str(at)})

    def _is_ready(self) -> bool:
        user, password = next(iter(self.users.items()), ("", ""))
        return answers_openwire(self.openwire_port) and answers_stomp(self.port, user, password)

    def _configuration(self) -> str:
        users = "".join(
            f"<authenticationUser username={quoteattr(user)} password={quoteattr(password)}"
            ' groups="users"/>'
            for user, password in self.users.items()
        )
        login = f"<simpleAuthenticationPlugin><users>{users}</users></simpleAuthenticationPlugin>"
        return _CONFIGURATION.format(
            name=quoteattr(self.name),
            data=quoteattr(str(self.folder / "data")),
            extra_xml=self.extra_xml,
            plugins=f"<plugins>{login}</plugins>" if users else "",
            openwire=quoteattr(f"tcp://{self.host}:{self.openwire_port}"),
            stomp=quoteattr(f"stomp://{self.host}:{self.port}?{self.stomp_options}"),
        )


def _class_path() -> str:
    jars = [*_HOME.glob("lib/*.jar"), *_HOME.glob("lib/optional/*.jar")]
    return ":".join(map(str, [*sorted(jars), _HOME / "bin/activemq.jar"]))
