#!/bin/bash
# Prints every sign of a live driver on a node: loaded modules, modules on disk, DKMS, the loader's path, the PATH, setuid files and
# initramfs images. Prints nothing if there is none.
grep -o '^nvidia[a-z_]*' /proc/modules
find /lib/modules/ -regex '.*/nvidia\(-uvm\|-modeset\|-drm\|-peermem\)?[.]ko.*'
grep -hE ' nvidia(_uvm|_modeset|_drm|_peermem)?$' /lib/modules/*/modules.alias
dkms status
for path in /var/lib/dkms/nvidia /opt/azure /etc/ld.so.conf.d/nvidia.conf /usr/bin/nvidia-smi /usr/bin/nvidia-modprobe; do
  [ ! -e "$path" ] || echo "$path"
done
command -v nvidia-smi nvidia-modprobe
find /usr /opt /etc -xdev -perm /6000 -name '*nvidia*'
ldconfig -p | grep -E 'libcuda|libnvidia-ml'
for image in /boot/initrd.img-*; do
  lsinitramfs "$image" | grep -E '/nvidia(-uvm|-modeset|-drm|-peermem)?[.]ko'
done
exit 0
