#!/bin/bash
# Prints each path and entry on a node that belongs to a driver of ours, or to what we install with it. Prints nothing if there is none.
find /lib/modules/*/updates /usr/bin/lib64 /opt/azure /lib/firmware/nvidia /var/lib/gpu-prebake /var/log/gpu-prebake \
  /etc/modprobe.d /etc/ld.so.conf.d /etc/containerd/config.d /lib/udev/rules.d \
  \( -name '*nvidia*' -o -name '*nouveau*' -o -name '*gpu-prebake*' \) 2>/dev/null
for path in /usr/src/nvidia-* /usr/bin/lib64 /opt/azure /var/lib/gpu-prebake /var/log/gpu-prebake /dev/nvidia* /run/cdi/nvidia.yaml; do
  [ ! -e "$path" ] || echo "$path"
done
ldconfig -p | grep -E 'libcuda|libnvidia-ml'
grep -E 'nvidia\.ko' /lib/modules/*/modules.dep
command -v nvidia-smi nvidia-modprobe
exit 0
