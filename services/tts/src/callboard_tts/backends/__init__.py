"""The engines that turn pieces of text into sound."""
