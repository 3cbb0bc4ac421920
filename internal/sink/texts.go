package sink

import (
	"maps"
	"slices"
)

// texts is how one provider words its replies. {ip} stands for the address of
// the peer. Replies of a list are given in turn.
type texts struct {
	deferred, bounced []reply
	limited           []reply // above a rate
	connections       []reply // too many at a time, or too fast
	blocked           []reply // the peer's address is on the block list
}

func textNames() []string { return slices.Sorted(maps.Keys(allTexts())) }

// textsOf returns the wording of a provider, the generic one by default:
// classifiers and backoff rules want to be tried with what they will meet.
func textsOf(name string) texts {
	all := allTexts()
	generic := all["generic"]()
	make, ok := all[name]
	if !ok {
		return generic
	}
	t := make()
	for _, l := range []struct{ list, usual *[]reply }{
		{&t.deferred, &generic.deferred}, {&t.bounced, &generic.bounced}, {&t.limited, &generic.limited},
		{&t.connections, &generic.connections}, {&t.blocked, &generic.blocked},
	} {
		if len(*l.list) == 0 {
			*l.list = *l.usual
		}
	}
	return t
}

func allTexts() map[string]func() texts {
	return map[string]func() texts{
		"generic": genericTexts, "gmail": gmailTexts, "outlook": outlookTexts, "microsoft365": microsoft365Texts,
		"yahoo": yahooTexts, "icloud": icloudTexts, "comcast": comcastTexts, "orange": orangeTexts, "gmx": gmxTexts,
		"qq": qqTexts, "163": neteaseTexts,
	}
}

func genericTexts() texts {
	return texts{
		deferred:    []reply{{451, "4.3.0", "Temporary failure, please try again later"}},
		bounced:     []reply{{550, "5.1.1", "No such user here"}},
		limited:     []reply{{451, "4.7.1", "Rate limit exceeded, slow down"}},
		connections: []reply{{421, "4.7.0", "Too many connections, try again later"}},
		blocked:     []reply{{550, "5.7.1", "Unfortunately, messages from {ip} weren't sent: the address is on our block list"}},
	}
}

func gmailTexts() texts {
	return texts{
		deferred: []reply{
			{450, "4.2.1", "The user you are trying to contact is receiving mail at a rate that\nprevents additional messages from being delivered. Please resend your\nmessage at a later time. - gsmtp"},
			{452, "4.2.2", "The recipient's inbox is out of storage space. Please direct the\nrecipient to clear space. - gsmtp"},
		},
		bounced: []reply{
			{550, "5.1.1", "The email account that you tried to reach does not exist. Please try\ndouble-checking the recipient's email address for typos or\nunnecessary spaces. - gsmtp"},
			{550, "5.2.1", "The email account that you tried to reach is inactive. - gsmtp"},
		},
		limited: []reply{
			{421, "4.7.28", "Gmail has detected an unusual rate of unsolicited mail originating\nfrom your IP address [{ip}]. To protect our users from spam, mail sent from\nyour IP address has been temporarily rate limited. - gsmtp"},
			{421, "4.7.28", "[{ip}] Our system has detected an unusual rate of\nunsolicited mail originating from your IP address. To protect our users\nfrom spam, mail sent from your IP address has been temporarily rate\nlimited. - gsmtp"},
		},
		connections: []reply{{421, "4.7.0", "[{ip}] Try again later, closing connection. (EHLO) - gsmtp"}},
		blocked: []reply{
			{421, "4.7.0", "[{ip}] Our system has detected that this message is\nsuspicious due to the very low reputation of the sending IP address.\nTo best protect our users from spam, the message has been blocked. - gsmtp"},
			{550, "5.7.1", "[{ip}] Our system has detected that this message is\nlikely unsolicited mail. To reduce the amount of spam sent to Gmail,\nthis message has been blocked. - gsmtp"},
		},
	}
}

func outlookTexts() texts {
	return texts{
		deferred: []reply{{451, "4.7.500", "Server busy. Please try again later from [{ip}]. (S77719)"}},
		bounced: []reply{
			{550, "5.5.0", "Requested action not taken: mailbox unavailable (S2017062302)."},
			{550, "5.4.1", "Recipient address rejected: Access denied."},
		},
		limited: []reply{
			{451, "4.7.650", "The mail server [{ip}] has been temporarily rate limited due to IP reputation. For e-mail delivery information, see https://postmaster.live.com (S775)"},
			{421, "", "RP-001 Unfortunately, some messages from {ip} weren't sent. The mail server IP connecting to Outlook.com has exceeded the rate limit allowed. Reason for rate limitation is related to IP/domain reputation."},
		},
		connections: []reply{
			{451, "4.7.652", "The mail server [{ip}] has exceeded the maximum number of connections. (S3115)"},
			{421, "4.4.5", "Connection refused from {ip} due to exceed max concurrent connections. IB007"},
		},
		blocked: []reply{{550, "5.7.1", "Unfortunately, messages from [{ip}] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140). You can also refer your provider to http://mail.live.com/mail/troubleshooting.aspx#errors."}},
	}
}

func microsoft365Texts() texts {
	return texts{
		deferred:    []reply{{451, "4.7.500", "Server busy. Please try again later from [{ip}]. (S77719)"}},
		bounced:     []reply{{550, "5.4.1", "Recipient address rejected: Access denied."}},
		limited:     []reply{{451, "4.7.500", "Server busy. Please try again later from [{ip}]. (S77714)"}},
		connections: []reply{{421, "4.3.2", "The maximum number of concurrent server connections has exceeded a limit, closing transmission channel"}},
		blocked:     []reply{{550, "5.7.606", "Access denied, banned sending IP [{ip}]. To request removal from this list please visit https://sender.office.com/ and follow the directions. AS(1430)"}},
	}
}

func yahooTexts() texts {
	return texts{
		deferred: []reply{{421, "4.7.0", "[TSS04] Messages from {ip} temporarily deferred due to unexpected volume or user complaints - 4.16.55.1"}},
		bounced:  []reply{{554, "", "delivery error: dd This user doesn't have an account (user@example.test) [0]"}},
		limited: []reply{
			{421, "4.7.0", "[TSS04] Messages from {ip} temporarily deferred due to unexpected volume or user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes"},
			{421, "4.7.0", "[TS01] Messages from {ip} temporarily deferred due to user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes"},
		},
		connections: []reply{{421, "4.7.0", "Too many concurrent SMTP connections from {ip}; please try again later."}},
		blocked:     []reply{{553, "5.7.1", "[BL21] Connections will not be accepted from {ip}, because the ip is in Spamhaus's list; see https://postmaster.yahooinc.com/error-codes"}},
	}
}

func icloudTexts() texts {
	return texts{
		deferred:    []reply{{451, "", "[BS02] Temporary server error. Please try again later. See https://support.apple.com/en-us/HT204137"}},
		limited:     []reply{{421, "", "[HCM1] Your mail from {ip} was deferred. Please see https://support.apple.com/en-us/HT204137"}},
		connections: []reply{{451, "4.7.1", "Service unavailable - try again later"}},
		blocked:     []reply{{550, "5.7.1", "Your email was rejected due to having a domain present in the Spamhaus DBL -- see https://www.spamhaus.org/dbl/"}},
	}
}

func comcastTexts() texts {
	return texts{
		limited:     []reply{{421, "4.1.0", "{ip} Throttled - try again later. Please see https://postmaster.comcast.net/smtp-error-codes.php#RL000001"}},
		connections: []reply{{421, "", "comcast Too many sessions opened"}},
		blocked:     []reply{{554, "", "comcast {ip} Comcast block for spam. Please see https://postmaster.comcast.net/smtp-error-codes.php#BL000000"}},
	}
}

func orangeTexts() texts {
	return texts{
		bounced:     []reply{{550, "5.1.1", "Adresse d au moins un destinataire invalide. Invalid recipient. OFR_416 [416]"}},
		limited:     []reply{{421, "", "ME Service refuse. Veuillez essayer plus tard. Service refused, please try later. OFR_999 [999]"}},
		connections: []reply{{421, "", "ME Trop de connexions, veuillez verifier votre configuration. Too many connections, slow down. OFR004_104 [104]"}},
		blocked:     []reply{{550, "5.7.1", "Client host blocked for spamming issues. OFR006_102 Ref http://csi.cloudmark.com/reset-request/?ip={ip} [102]"}},
	}
}

func gmxTexts() texts {
	return texts{
		bounced:     []reply{{550, "", "Requested action not taken: mailbox unavailable\nFor explanation visit https://postmaster.gmx.net/en/error-messages"}},
		limited:     []reply{{421, "", "Service unavailable\nReject due to policy restrictions\nPlease try again later. Too many messages have been received in a short period of time."}},
		connections: []reply{{421, "", "gmx.net Nemesis ESMTP Service not available\nToo many connections\nFor explanation visit https://postmaster.gmx.net/en/error-messages"}},
		blocked:     []reply{{554, "", "gmx.net Nemesis ESMTP Service not available\nNo SMTP service\nIP address is block listed.\nFor explanation visit https://postmaster.gmx.net/en/case?c=r0201&i=ip&v={ip}"}},
	}
}

func qqTexts() texts {
	return texts{
		bounced:     []reply{{550, "", "The recipient may contain a non-existent account, please check the recipient address."}},
		limited:     []reply{{550, "", "Ip frequency limited [IP: {ip}]. http://service.mail.qq.com/detail/122/172"}},
		connections: []reply{{550, "", "Connection frequency limited. http://service.mail.qq.com/detail/122/58"}},
		blocked:     []reply{{550, "", "Domain frequency limited. http://service.mail.qq.com/detail/122/57"}},
	}
}

func neteaseTexts() texts {
	return texts{
		limited:     []reply{{451, "", "DT:SPM 163 please try again http://mail.163.com/help/help_spam_16.htm?ip={ip}"}},
		connections: []reply{{421, "", "Too many connections from {ip}"}},
		blocked:     []reply{{554, "", "HL:ITC 163 http://mail.163.com/help/help_spam_16.htm?ip={ip}"}},
	}
}
