"""Files of model-hub repositories, from the cache or downloaded."""
