from tests.integration.kit.conftest import bus, config, server

__all__ = ["bus", "config", "server"]
