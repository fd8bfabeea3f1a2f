#!/usr/bin/env bash
# Runs on a node and prints the state of the driver in sections, so that a verify playbook needs only one round trip.
look() { echo "@@ $1"; shift; "$@" 2>&1; }
systemctl start containerd # waits if containerd is still starting
look version cat /sys/module/nvidia/version
look state cat /sys/module/nvidia/initstate /sys/module/nvidia_uvm/initstate
look loaded sh -c 'grep -o "^nvidia[a-z_]*" /proc/modules'
look bound sh -c 'ls /sys/bus/pci/drivers/nvidia | grep :'
look proc_version cat /proc/driver/nvidia/version
look smi nvidia-smi
look nodes sh -c 'ls /dev/nvidia0 /dev/nvidiactl /dev/nvidia-uvm'
look containerd_config containerd config dump
look containerd_starts sh -c 'journalctl -b -u containerd --no-pager -o cat | grep -c "^Started containerd"'
look record cat /var/lib/gpu-prebake/node-record.json
look store_modes stat -c '%a %U' /var/lib/gpu-prebake /var/lib/gpu-prebake/node-record.json
look kver uname -r
look dkms dkms status nvidia
look scratch ls -d /opt/gpu /opt/actions
look mounts sh -c 'findmnt -rn -o TARGET,FSTYPE | grep -E "^/usr/lib|^/tmp/overlay"'
look containers ctr -n k8s.io containers ls -q
look libraries ls /usr/bin/lib64/lib64
look marker cat /opt/azure/aks-gpu/dkms-marker
look manifests find /var/lib/gpu-prebake/layers -name manifest.json
look built_since_boot find /lib/modules/"$(uname -r)"/updates /var/lib/dkms -newer /etc/machine-id -name '*.ko*'
look services sh -c 'systemctl is-active nvidia-persistenced nvidia-fabricmanager'
look fabric sh -c 'nvidia-smi -q | grep -A2 " Fabric$"'
look fabric_manager systemctl is-enabled nvidia-fabricmanager
look logs sh -c 'ls /var/log/gpu-prebake'
look failed_units systemctl list-units --failed --plain --no-legend nvidia-cdi-refresh.service containerd.service
echo "@@ end"
