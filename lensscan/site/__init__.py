"""What depends on the machine: environment check, benchmarks, job scripts."""

__all__: list[str] = []
