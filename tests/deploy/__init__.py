"""What is in deploy/, checked by the tools that would take it: promtool and Prometheus, helm, Kubernetes' schemas,
hadolint, systemd; and the start command run as the image runs it."""
