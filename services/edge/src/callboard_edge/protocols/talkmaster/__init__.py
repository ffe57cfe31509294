"""AI Talkmaster: the asynchronous API of scripts in OpenSimulator and Second Life."""
