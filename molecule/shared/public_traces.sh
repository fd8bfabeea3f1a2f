#!/bin/bash
# Prints each file, link and unit that the public images put on a node without a package. Prints nothing if there is none.
for path in /usr/bin/nv-fabricmanager /usr/bin/nvswitch-audit /usr/bin/nvidia-fabricmanager-start.sh /usr/include/nv_fm_agent.h \
  /usr/include/nv_fm_types.h /usr/lib/*/libnvfm.so /usr/lib/*/libnvfm.so.1 /usr/share/nvidia /usr/share/nvidia/nvswitch/* \
  /usr/share/doc/nvidia-fabricmanager /usr/share/doc/nvidia-fabricmanager/* /lib/systemd/system/nvidia-fabricmanager.service \
  /etc/systemd/system/*.wants/nvidia-fabricmanager.service /etc/nvidia-container-runtime/config.toml; do
  if [ -e "$path" ] || [ -L "$path" ]; then echo "$path"; fi
done
systemctl list-unit-files --no-legend 'nvidia-fabricmanager*'
exit 0
