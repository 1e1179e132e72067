"""An article that two of three people must approve before it is published: see article.yaml."""
