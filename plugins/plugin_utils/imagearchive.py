"""An action that copies an image archive from the controller to the node, for the modules that fetch a driver image."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean

from .followed import FollowedAction


class ImageArchiveAction(FollowedAction):
    """If an archive is on the controller, first runs the module in check mode to ask whether it needs the archive, and copies it only then.

    The copy lies in the task's temporary folder, which is removed after the task, also after an asynchronous one.
    """

    def run_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """The module's result."""
        path = arguments.get("image_archive")
        if not path or boolean(arguments.get("image_archive_remote_src") or False, strict=False):
            return super().run_module(arguments, task_vars)
        try:
            local = self._find_needle("files", path)
        except AnsibleError as error:
            advice = "correct the path, or set image_archive_remote_src if it is on the node"
            return {"failed": True, "code": "image_archive", "msg": f"image archive {path} is not on the controller: {advice}: {error}"}
        arguments.update(image_archive=local, image_archive_remote_src=True)
        if not self._task.check_mode:
            asked = self._ask_module(arguments, task_vars)
            if asked.get("failed"):
                return asked
            if asked.get("image_wanted"):
                folder = self._connection._shell.tmpdir or self._make_tmp_path()
                arguments["image_archive"] = self._connection._shell.join_path(folder, "image.tar")
                self._transfer_file(local, arguments["image_archive"])
        return super().run_module(arguments, task_vars)

    def _ask_module(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """What the module answers in check mode."""
        self._task.check_mode = True
        try:
            return dict(self._execute_module(module_args=arguments, task_vars=task_vars))
        finally:
            self._task.check_mode = False
