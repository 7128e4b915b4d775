"""What a service is hosted by and called through: two hosts, one call context, one wire form of errors."""
