"""The configuration files, installed as the package ``mnistcnn.conf``.

Importing this package removes from Hydra's config store each plugin configuration that has the
same name as a file in this directory (such as ``hydra/launcher=joblib``), so that Hydra uses the
file. Otherwise Hydra would validate the file against the plugin's schema and warn, or reject it.
"""

from importlib.resources import files

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

Plugins.instance()  # makes the plugins register their configurations in the store
for group in ("launcher", "sweeper"):
    theirs = ConfigStore.instance().repo["hydra"][group]
    for file in (files(__name__) / "hydra" / group).iterdir():
        theirs.pop(file.name, None)
