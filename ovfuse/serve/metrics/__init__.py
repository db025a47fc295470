"""What Prometheus is told of the mounts of this machine, by a process without keys.

Used by the metrics command, which alone needs prometheus-client.
"""
