"""``make docs``: writes what documents say about options, from the table in plugins/module_utils/gpunode/options.py."""
