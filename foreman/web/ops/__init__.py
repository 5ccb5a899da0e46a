"""What operators see and do: `/ops`, `/healthz`, `/metrics`, and the snapshot the page lives from."""
