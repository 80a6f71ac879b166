"""How feedloop is started: the command line now; deployments, automations and the gateway later."""
