"""The admin port of a shard: probes, metrics, settings and a look inside, by HTTP. Loaded where there is one."""
