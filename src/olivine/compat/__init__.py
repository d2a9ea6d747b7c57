"""What users' scripts import of Olive; a folder of its own, which Python finds only while such a script is at work."""
