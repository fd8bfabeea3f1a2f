#!/bin/bash
# Where a driver of ours, or what goes with it, would be found on a node. Silent where nothing is.
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
