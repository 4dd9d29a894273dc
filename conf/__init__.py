"""The configuration files of mnistcnn, installed as the package ``mnistcnn.conf``.

Where one of them has the name of a plugin's own configuration (``hydra/launcher=joblib``), it is
meant instead of that. Hydra would hold it against the plugin's and warn, or refuse it.
"""

from importlib.resources import files

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins

Plugins.instance()  # has the plugins put theirs into the store
for group in ("launcher", "sweeper"):
    theirs = ConfigStore.instance().repo["hydra"][group]
    for file in (files(__name__) / "hydra" / group).iterdir():
        theirs.pop(file.name, None)
