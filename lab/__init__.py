"""The lab, on one Debian machine: nodes to bake on (systemd-nspawn) and to boot (QEMU), their base, and a registry."""
