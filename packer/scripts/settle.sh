#!/bin/sh
# Waits until the machine's first boot is done (cloud-init) and stops apt's timers, so that nothing else changes packages. The next boot
# starts the timers again.
set -eu

if command -v cloud-init >/dev/null; then
    # Status 2 means done, with warnings. If cloud-init is disabled, this does not wait.
    timeout 600 cloud-init status --wait >/dev/null || [ $? = 2 ] || echo "cloud-init failed or timed out: see cloud-init status --long"
fi

systemctl stop apt-daily.timer apt-daily-upgrade.timer 2>/dev/null || true
# Let an upgrade that runs already finish: killing it would interrupt dpkg.
for unit in apt-daily apt-daily-upgrade; do
    tries=0
    while systemctl is-active --quiet "$unit.service" || [ "$(systemctl is-active "$unit.service")" = activating ]; do
        tries=$((tries + 1))
        [ "$tries" -le 120 ] || { echo "$unit.service still runs after 10 minutes: build again, or begin with a newer image"; exit 1; }
        sleep 5
    done
done
echo "settled: kernel $(uname -r), up for $(cut -d. -f1 /proc/uptime) s, $(df -h --output=avail / | tail -n 1 | tr -d ' ') free on /"
