"""The engines that a chat pool can stand on; each module satisfies `domain.ports.ChatEngine`."""
