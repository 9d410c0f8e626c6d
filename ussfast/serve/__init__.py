"""A server of separation: live streams, files, prompts of clips, a page; `ussfast serve`. Needs the extra `serve`."""
