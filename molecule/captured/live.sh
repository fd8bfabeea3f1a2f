#!/bin/bash
# Everything by which a driver would show on a node: in the kernel, for the kernel, DKMS, the loader and the PATH. Silent where none is.
grep -o '^nvidia[a-z_]*' /proc/modules
find /lib/modules/ -name 'nvidia*.ko*' -path '*updates*'
grep -h ' nvidia' /lib/modules/*/modules.alias
for path in /var/lib/dkms/nvidia /opt/azure /etc/ld.so.conf.d/nvidia.conf /usr/bin/nvidia-smi /usr/bin/nvidia-modprobe; do
  [ ! -e "$path" ] || echo "$path"
done
ldconfig -p | grep -E 'libcuda|libnvidia-ml'
lsinitramfs "/boot/initrd.img-$(uname -r)" | grep -E '/nvidia(-uvm)?[.]ko'
exit 0
