"""The configuration files, installed as the package ``mnistcnn.conf``.

Importing this package removes from Hydra's config store each plugin configuration that has the
same name as a file in this directory (such as ``hydra/sweeper=optuna``), so that Hydra uses the
file. Otherwise Hydra would validate the file against the plugin's schema and warn, or reject it. It
also registers our plugins, which Hydra does not find in an editable installation.
"""

from importlib.resources import files

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

plugins = Plugins.instance()  # makes the plugins register their configurations in the store

# only now: the search for plugins executes Hydra's own sweeper a second time, and a subclass of the
# first one would not work
from hydra_plugins.mnistcnn_plugins.launcher import ParallelLauncher  # noqa: E402
from hydra_plugins.mnistcnn_plugins.sweeper import GridSweeper  # noqa: E402

for plugin in (ParallelLauncher, GridSweeper):
    plugins.register(plugin)
for group in ("launcher", "sweeper"):
    theirs = ConfigStore.instance().repo["hydra"][group]
    for file in (files(__name__) / "hydra" / group).iterdir():
        theirs.pop(file.name, None)
