#!/bin/sh
# Waits until the machine's first boot is done and nobody else changes packages: cloud-init, apt's timers. They come back with the next boot.
set -eu

if command -v cloud-init >/dev/null; then
    # 2 is "done, with something to complain about"; it does not wait where cloud-init is switched off.
    timeout 600 cloud-init status --wait >/dev/null || [ $? = 2 ] || echo "cloud-init did not end well: cloud-init status --long says why"
fi

systemctl stop apt-daily.timer apt-daily-upgrade.timer 2>/dev/null || true
# What runs already is let finish, not killed in the middle of dpkg.
for unit in apt-daily apt-daily-upgrade; do
    tries=0
    while systemctl is-active --quiet "$unit.service" || [ "$(systemctl is-active "$unit.service")" = activating ]; do
        tries=$((tries + 1))
        [ "$tries" -le 120 ] || { echo "$unit.service still runs after 10 minutes"; exit 1; }
        sleep 5
    done
done
echo "settled: kernel $(uname -r), up for $(cut -d. -f1 /proc/uptime) s, $(df -h --output=avail / | tail -n 1 | tr -d ' ') free on /"
