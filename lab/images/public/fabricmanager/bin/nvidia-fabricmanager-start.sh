#!/bin/sh
# Starts the stand-in of fabric manager.
exec /usr/bin/nv-fabricmanager
