class TokenIssuer:
    def __init__(self, app_id, certificate, version):
        self.app_id = app_id

    def issue(self, channel, uid, now, expires_at):
        return "007stub"
