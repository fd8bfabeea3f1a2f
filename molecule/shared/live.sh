#!/bin/bash
# Everything by which a driver would show on a node: in the kernel, for the kernel, DKMS, the loader and the PATH, devices, setuid files,
# initramfs images. Silent where none is.
grep -o '^nvidia[a-z_]*' /proc/modules
ls -d /dev/nvidia* /proc/driver/nvidia 2>/dev/null
find /lib/modules/ -name 'nvidia*.ko*' ! -name 'nvidiafb.ko*'
grep -h ' nvidia' /lib/modules/*/modules.alias
modinfo -n nvidia 2>/dev/null
dkms status
for path in /var/lib/dkms/nvidia /opt/azure /opt/gpu /opt/actions /usr/bin/lib64 /etc/ld.so.conf.d/nvidia.conf; do
  [ ! -e "$path" ] || echo "$path"
done
command -v nvidia-smi nvidia-modprobe
find /usr /opt /etc /var/lib/dkms -xdev -perm /6000 -name '*nvidia*'
ldconfig -p | grep -E 'libcuda|libnvidia-ml'
for image in /boot/initrd.img-*; do
  lsinitramfs "$image" | grep -E '/nvidia(-uvm|-modeset|-drm|-peermem)?[.]ko'
done
exit 0
