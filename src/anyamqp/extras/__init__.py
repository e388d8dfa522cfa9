"""What stands beside the client: each module needs the extra of its name, and the client needs none of them."""
