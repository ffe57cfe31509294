"""A whole Callboard out of its images: each service in a container of its own, the bus and the models beside them."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from callboard_contracts.config import SiteSection
from callboard_kit.model_files import model_folder
from tests.support.deployment import COMMAND_TIMEOUT_S, Deployment
from tests.support.images import ContainerCommand, start_container
from tests.support.processes import Service, Table

MODELS = "/models"


class ContainerService(Service):
    """One service in a container; it reads the same file, at the same path, as it would outside."""

    def __init__(
        self, name: str, image: str, config: Table, folder: Path, health_port: int | None, arguments: tuple[str, ...]
    ) -> None:
        super().__init__(name, image, config, folder, health_port=health_port, arguments=arguments)
        self._words = ["--config", str(self.config_file), *arguments]
        self._output = folder / f"{name}.log"
        mounts = {self.config_file: str(self.config_file), model_folder(SiteSection()): MODELS}
        self.write_config()
        self.container = ContainerCommand(image, f"callboard-test-{name}", folder, mounts)

    def start(self) -> None:
        """Starts the container without waiting for it."""
        self.write_config()
        self.child = start_container(self.container, self._words, {}, self._output)


class ImageDeployment(Deployment):
    """A set whose services, and whose command line, run in containers, all or those that `contained` names."""

    contained: Set[str] | None = None
    """The modules, such as `callboard_stt`, that run in containers; None is all."""

    def abandon(self) -> None:
        """Ends whatever still runs."""
        super().abandon()
        for service in self.services:
            if isinstance(service, ContainerService):
                service.container.remove()

    def command(self, *words: str) -> str:
        """Runs `callboard <words>` in a container and returns what it prints."""
        if not self._is_contained("callboard_cli"):
            return super().command(*words)
        service = self._service("command", "callboard_cli", {}, None, *words)
        service.start()
        code = service.running.wait(COMMAND_TIMEOUT_S)
        output = service.running.output()
        assert code == 0, f"callboard {' '.join(words)}: {code}: {output}"
        return output

    def _service(
        self, name: str, module: str, over: Mapping[str, Any], health_port: int | None, *arguments: str
    ) -> Service:
        plain = super()._service(name, module, over, health_port, *arguments)
        if not self._is_contained(module):
            return plain
        image = module.replace("_", "-")
        return ContainerService(name, image, plain.config, self.folder, health_port, arguments)

    def _is_contained(self, module: str) -> bool:
        return self.contained is None or module in self.contained
