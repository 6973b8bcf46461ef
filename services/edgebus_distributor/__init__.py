"""The distributor: a registry of model versions, and their way to every edge."""

from edgebus_distributor.service import Distributor
from edgebus_distributor.settings import DistributorSettings

__all__ = ["Distributor", "DistributorSettings"]
