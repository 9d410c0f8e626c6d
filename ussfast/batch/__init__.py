"""Collections of files of any size, on one machine or a cluster of Ray: `ussfast batch`, docs/batch.md."""
