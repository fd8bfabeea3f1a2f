"""The lab: nodes to bake on (systemd-nspawn) and VMs to boot (QEMU) on one Debian machine, with driver images and a registry."""
