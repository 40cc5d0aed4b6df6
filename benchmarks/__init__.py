"""What the library costs and reaches, measured: each module says its command."""
