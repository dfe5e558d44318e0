"""What is scored: survey catalogs, colour cuts, and stamps from packs, loose files and coadd tiles."""
