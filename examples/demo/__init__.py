"""The whole story in one command: train, publish, serve, index, chat, hot-reload, measure, report."""
