package drill
