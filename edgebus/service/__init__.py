from edgebus.service.settings import NodeSettings, ServiceSettings
from edgebus.service.loading import load_settings
from edgebus.service.errors import SettingsError
