"""What tests share: daemons, servers, clips, scripted engines and peers.  No test is here."""
